from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from devstack.servers import ServerOptions, Servers, ServerUnusableError
from devstack.sql import execute, fetch

pytestmark = pytest.mark.slow


def databases(servers: Servers) -> set[str]:
    return {row[0] for row in fetch(servers.admin_url, "SELECT datname FROM pg_database WHERE NOT datistemplate")}


def roles(servers: Servers) -> set[str]:
    return {row[0] for row in fetch(servers.admin_url, "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'")}


def test_a_role_owns_its_database_and_reaches_no_other(servers: Servers) -> None:
    own = servers.create_database("own")
    servers.create_database("foreign")
    execute(own.url, ["CREATE TABLE things (number int)"])
    for other in ("foreign", "postgres", "template1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            fetch(own.url.removesuffix("/own") + f"/{other}", "SELECT 1")


def test_making_a_database_again_changes_nothing(servers: Servers) -> None:
    first = servers.create_database("again")
    execute(first.url, ["CREATE TABLE things (number int)"])
    second = servers.create_database("again")
    assert second == first
    assert fetch(second.url, "SELECT count(*) FROM things") == [(0,)]


def test_a_clone_has_what_the_original_has_and_belongs_to_the_same_role(servers: Servers) -> None:
    original = servers.create_database("original")
    execute(original.url, ["CREATE TABLE things (number int)", "INSERT INTO things VALUES (1)"])
    clone = servers.clone_database("original", "clone")
    execute(clone.url, ["INSERT INTO things VALUES (2)", "ALTER TABLE things ADD COLUMN text text"])
    assert fetch(clone.url, "SELECT count(*) FROM things") == [(2,)]
    assert fetch(original.url, "SELECT count(*) FROM things") == [(1,)]
    servers.drop_database("clone")
    assert "clone" not in databases(servers)
    assert fetch(original.url, "SELECT 1") == [(1,)]


def test_a_name_that_is_no_identifier_is_refused(servers: Servers) -> None:
    with pytest.raises(ValueError, match="no name for a database"):
        servers.create_database('x"; DROP')


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_given_servers_are_used_with_names_of_this_stack_and_left_as_they_were(
    servers: Servers, tmp_path: Path, scheme: str
) -> None:
    before = databases(servers), roles(servers)
    url = servers.admin_url.replace("postgresql://", f"{scheme}://")
    options = ServerOptions(tmp_path, ephemeral=True, database_url=url, redis_url=servers.redis_url)
    with Servers(options) as given:
        assert given.postgres is None
        assert given.valkey is None
        made = given.create_database("ledger")
        assert made.name.startswith("bulksms_")
        assert made.name.endswith("_ledger")
        assert fetch(made.url, "SELECT current_user = current_database()::text") == [(True,)]
        with given.redis() as client:
            client.set(f"{given.redis_key_prefix}key", 1)
            client.set("somebody's", 1)
    assert (databases(servers), roles(servers)) == before
    with servers.redis() as client:
        assert client.keys() == [b"somebody's"]
        client.flushall()


def test_a_given_role_without_superuser_rights_is_enough(servers: Servers, tmp_path: Path) -> None:
    execute(servers.admin_url, ["CREATE ROLE manager LOGIN PASSWORD 'pw' CREATEDB CREATEROLE",
                                "GRANT CONNECT ON DATABASE postgres TO manager"])  # fmt: skip
    url = f"postgresql://manager:pw@{servers.admin_url.partition('@')[2]}"
    with Servers(ServerOptions(tmp_path, ephemeral=True, database_url=url, redis_url=servers.redis_url)) as given:
        given.create_database("campaign")
        given.clone_database("campaign", "copy")


def test_a_given_role_without_rights_is_refused_with_the_cure(servers: Servers, tmp_path: Path) -> None:
    execute(servers.admin_url, ["CREATE ROLE weak LOGIN PASSWORD 'pw'", "GRANT CONNECT ON DATABASE postgres TO weak"])
    url = f"postgresql://weak:pw@{servers.admin_url.partition('@')[2]}"
    given = Servers(ServerOptions(tmp_path, database_url=url, redis_url=servers.redis_url))
    with pytest.raises(ServerUnusableError, match="CREATEDB CREATEROLE"), given:
        pass


def test_a_url_where_nobody_listens_is_refused_and_the_password_not_shown(servers: Servers, tmp_path: Path) -> None:
    given = Servers(
        ServerOptions(tmp_path, database_url="postgresql://u:hidden@127.0.0.1:1/x", redis_url=servers.redis_url)
    )
    with pytest.raises(ServerUnusableError, match="DATABASE_URL cannot be used") as refusal, given:
        pass
    assert "hidden" not in str(refusal.value)
