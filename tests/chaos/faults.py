"""What may happen at any moment. Each fault does its harm, fixes what no init system would, and says what it did."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable

from finetune_hub.machine.processes import identify
from tests.chaos.hub_under_fire import LEASE_SECONDS, HubUnderFire

Fault = Callable[[HubUnderFire, random.Random], None]


def kill_trainer(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to a trainer"""
    kill_one_of(hub, chance, "finetune_hub.engine")


def kill_supervisor(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to the supervisor of a trainer"""
    kill_one_of(hub, chance, "supervisor.py")


def kill_one_of(hub: HubUnderFire, chance: random.Random, words: str) -> None:
    found = sorted(pid for pid, line in hub.processes() if words in line)
    if found:
        kill(chance.choice(found))


def kill(pid: int) -> None:
    if found := identify(pid):
        found.send(signal.SIGKILL)


def kill_box(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to the worker beside the servers"""
    kill_part(hub, "worker")


def kill_far(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to the far worker"""
    assert hub.far.process
    hub.far.process.kill()
    hub.far.process.wait()
    time.sleep(chance.uniform(0, 3))


def kill_control(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to control"""
    kill_part(hub, "control")


def kill_web(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to the web process"""
    kill_part(hub, "web")


def kill_valkey(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to Valkey"""
    kill_part(hub, "valkey")


def empty_valkey(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to Valkey, and all that it held is gone"""
    kill_part(hub, "valkey")
    shutil.rmtree(hub.main.home / "valkey" / "appendonlydir", ignore_errors=True)


def kill_postgres(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to Postgres"""
    kill_part(hub, "postgres")


def kill_part(hub: HubUnderFire, name: str) -> None:
    try:
        kill(hub.main.pid_of(name))
    except (AssertionError, StopIteration):
        pass  # It is being restarted already.


def kill_everything_beside_the_servers(hub: HubUnderFire, chance: random.Random) -> None:
    """SIGKILL to `up`, and with it to all of its parts"""
    hub.main.kill_up()
    time.sleep(chance.uniform(0, 2))
    hub.main.start()


def cut_network(hub: HubUnderFire, chance: random.Random) -> None:
    """the far worker's network is cut"""
    hub.far.pull_cables()
    time.sleep(chance.choice([2, LEASE_SECONDS * 1.5]))
    hub.far.plug_in()


def freeze_far(hub: HubUnderFire, chance: random.Random) -> None:
    """the far worker stands still for longer than its lease, and wakes up"""
    assert hub.far.process
    os.kill(hub.far.process.pid, signal.SIGSTOP)
    time.sleep(LEASE_SECONDS * 1.5)
    os.kill(hub.far.process.pid, signal.SIGCONT)


def fill_disk(hub: HubUnderFire, chance: random.Random) -> None:
    """the far worker's disk is full"""
    hub.far.fill_disk()
    time.sleep(chance.uniform(2, 8))
    hub.far.empty_disk()


FAULTS: list[Fault] = [
    kill_trainer,
    kill_supervisor,
    kill_box,
    kill_far,
    kill_control,
    kill_web,
    kill_valkey,
    empty_valkey,
    kill_postgres,
    kill_everything_beside_the_servers,
    cut_network,
    freeze_far,
    fill_disk,
]
NEEDS_A_DISK = fill_disk


def shuffled(chance: random.Random, count: int, *, has_disk: bool) -> list[Fault]:
    """So many faults in an order of chance: of each kind one, before any kind comes again."""
    kinds = [fault for fault in FAULTS if has_disk or fault is not NEEDS_A_DISK]
    faults: list[Fault] = []
    while len(faults) < count:
        faults += chance.sample(kinds, len(kinds))
    return faults[:count]
