from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devstack import valkey as valkey_module
from devstack.valkey import EmbeddedValkey, ValkeyUnavailableError


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    yield server
    server.remove()


def test_it_serves_only_who_knows_the_password(valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=valkey.port or 0, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert valkey.url.split(":")[2].split("@")[0] not in " ".join(psutil.Process(valkey.process.pid).cmdline())


def test_it_comes_back_empty_on_the_same_url_after_a_kill(valkey: EmbeddedValkey) -> None:
    url = valkey.url
    with redis.Redis.from_url(url) as client:
        client.set("key", "value")
        valkey.kill()
        valkey.start()
        assert valkey.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("key") is None


def test_without_a_program_the_error_says_to_set_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValkeyUnavailableError, match="Set REDIS_URL"):
        valkey_module.find_program()
