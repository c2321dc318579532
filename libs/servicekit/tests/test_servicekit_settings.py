"""The environment, and what is said when it is wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

import pytest
from pydantic import SecretStr, ValidationError

from servicekit.settings import (
    Address,
    CommaSeparatedSecrets,
    Endpoint,
    ServiceSettings,
    SettingsError,
    Target,
    load,
    old_names_in_use,
    parse_listen,
)


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "example"
    distribution: ClassVar[str] = "bulksms-servicekit"
    database_url: SecretStr
    peer_address: Address = Endpoint("127.0.0.1", 50051)
    secrets: CommaSeparatedSecrets = ()


def test_the_environment_is_read_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://u:hunter2@h/d",
        "GRPC_LISTEN": "127.0.0.1:0",
        "PEER_ADDRESS": "[::1]:7",
        "SECRETS": "one, two",
        "SHUTDOWN_GRACE_SECONDS": "1.5",
        "OTEL_SERVICE_NAME": "renamed",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load(Settings)
    assert settings.grpc_listen == Endpoint("127.0.0.1", 0)
    assert settings.peer_address == Endpoint("::1", 7)
    assert [secret.get_secret_value() for secret in settings.secrets] == ["one", "two"]
    assert settings.shutdown_grace == timedelta(seconds=1.5)
    assert (settings.name, settings.service_version) == ("renamed", "0.1.0")
    assert "hunter2" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.log_level = "DEBUG"


def test_every_wrong_variable_is_named_with_its_cure_and_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("GRPC_LISTEN", "hunter2")
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(SettingsError) as caught:
        load(Settings)
    message = str(caught.value)
    assert "DATABASE_URL is not set" in message
    assert "GRPC_LISTEN is wrong: must be host:port, for example 0.0.0.0:50051" in message
    assert "LOG_FORMAT is wrong: Input should be 'json' or 'console'" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [(":80", Endpoint("0.0.0.0", 80)), ("h:1", Endpoint("h", 1)), ("[::]:2", Endpoint("::", 2))],
)
def test_addresses_have_a_host_and_a_port(text: str, endpoint: Endpoint) -> None:
    assert parse_listen(text) == endpoint
    assert parse_listen(str(endpoint)) == endpoint


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "host:-1", "host:٣"])
def test_other_texts_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        parse_listen(text)


class Caller(ServiceSettings):
    ledger_address: Target


@pytest.mark.parametrize(
    "target",
    [
        "ledger:50051",
        "[::1]:7",
        "dns:///ledger.bulksms:50051",
        "dns:ledger:1",
        "ipv4:10.0.0.1:1,10.0.0.2:1",
    ],
)
def test_a_peer_is_named_by_any_usual_target(target: str) -> None:
    assert load(Caller, ledger_address=target).ledger_address == target


@pytest.mark.parametrize("target", ["", "ledger", "ledger:", ":50051", "http://ledger:50051", "ipv4:a:1,", "a b:1"])
def test_other_texts_name_no_peer_and_stop_the_start(target: str) -> None:
    with pytest.raises(SettingsError, match="LEDGER_ADDRESS is wrong: must be a gRPC target: host:port"):
        load(Caller, ledger_address=target)


def test_a_peer_that_is_not_named_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEDGER_ADDRESS", raising=False)
    with pytest.raises(SettingsError, match="LEDGER_ADDRESS is not set: it is required"):
        load(Caller)


class Renamed(ServiceSettings):
    old_names: ClassVar[dict[str, str]] = {"OLD_LIMIT": "LIMIT", "OLD_SECRETS": "SECRETS"}
    limit: int = 5
    secrets: CommaSeparatedSecrets = ()


def test_an_old_name_goes_on_working_and_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_LIMIT", "7")
    monkeypatch.setenv("OLD_SECRETS", "one,two")
    settings = load(Renamed)
    assert settings.limit == 7
    assert [secret.get_secret_value() for secret in settings.secrets] == ["one", "two"]
    assert old_names_in_use(Renamed) == [
        "OLD_LIMIT is now LIMIT: rename it",
        "OLD_SECRETS is now SECRETS: rename it",
    ]


def test_where_both_names_are_set_the_new_one_counts_and_the_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_LIMIT", "7")
    monkeypatch.setenv("LIMIT", "8")
    assert load(Renamed).limit == 8
    assert old_names_in_use(Renamed) == ["OLD_LIMIT is now LIMIT, which is set too and counts"]


def test_new_names_and_defaults_are_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Renamed).limit == 5
    monkeypatch.setenv("LIMIT", "8")
    assert load(Renamed).limit == 8
    assert old_names_in_use(Renamed) == []


def test_a_wrong_value_is_reported_under_the_name_it_was_set_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_LIMIT", "many")
    with pytest.raises(SettingsError, match="OLD_LIMIT is wrong: "):
        load(Renamed)
    monkeypatch.setenv("LIMIT", "some")
    with pytest.raises(SettingsError, match=r"^LIMIT is wrong: "):
        load(Renamed)
