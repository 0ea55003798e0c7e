"""Two hosts on one machine: the hub with its servers here, a worker in a network namespace, and a cable between them.

10.231.7.1   postgres  valkey  s3  ·  up: web  control  box
    └── veth ── 10.231.7.2   finetune-hub worker --name far
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from finetune_hub.embedded.children import Supervisor
from finetune_hub.embedded.postgres import UNSAFE_FAST_SETTINGS, Postgres
from finetune_hub.embedded.valkey import find_server
from tests.artifacts.conftest import ACCESS_KEY, SECRET_KEY
from tests.integration.conftest import COMMAND, OWN, RunningHub, wait_until
from tests.tiny_models import make_chat_rows, make_tiny_model

HERE, THERE, NAMESPACE, CABLE = "10.231.7.1", "10.231.7.2", "fh-far", "fh-cable"
LEASE_SECONDS = 9
TIMES = {
    "FINETUNE_HUB_LEASE_SECONDS": str(LEASE_SECONDS),
    "FINETUNE_HUB_CLAIM_SECONDS": "8",
    "FINETUNE_HUB_CANARY_SECONDS": "2",
    "FINETUNE_HUB_CANARY_MISSING_SECONDS": "12",
    "FINETUNE_HUB_RECONCILE_SECONDS": "1",
    "FINETUNE_HUB_RETRY_SECONDS": "0.5",
    "OMP_NUM_THREADS": "1",
}
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def cable() -> Iterator[None]:
    """The cable between here and the namespace."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to make a network namespace")
    try:
        ip("netns", "add", NAMESPACE)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to make a network namespace: {getattr(error, 'stderr', error)}")
    try:
        ip("link", "add", CABLE, "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
        ip("address", "add", f"{HERE}/24", "dev", CABLE)
        ip("link", "set", CABLE, "up")
        ip("-n", NAMESPACE, "address", "add", f"{THERE}/24", "dev", "eth0")
        ip("-n", NAMESPACE, "link", "set", "eth0", "up")
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "delete", NAMESPACE)  # Its end of the cable goes with it, and ours with that.


@dataclass
class Hosts:
    hub: RunningHub
    worker: subprocess.Popen[bytes]
    worker_home: Path

    def cut(self) -> None:
        ip("link", "set", CABLE, "down")

    def mend(self) -> None:
        ip("link", "set", CABLE, "up")


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_for_port(port: int) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HERE, port)) == 0

    wait_until(answers, seconds=30, what=f"an answer on port {port}")


@pytest.fixture(scope="module")
def hosts(cable: None) -> Iterator[Hosts]:
    """Hub and worker, with the base model `tiny` and the dataset `rows` in S3. The hub's own worker is drained."""
    folder = Path(tempfile.mkdtemp(prefix="fh-hosts-"))
    folder.chmod(0o711)  # Postgres passes through as another user.
    with ExitStack() as servers:
        servers.callback(shutil.rmtree, folder)
        settings = {**UNSAFE_FAST_SETTINGS, "listen_addresses": HERE, "shared_buffers": "32MB"}
        postgres = Postgres(folder / "postgres", folder / "postgres_password", settings=settings)
        supervisor = Supervisor(folder)
        servers.callback(supervisor.stop)
        program = postgres.program()
        with (postgres.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {HERE}/24 scram-sha-256\n")
        supervisor.wait_until_ready(supervisor.start(program))
        valkey = [str(find_server()), "--bind", HERE, "--port", "6379", "--protected-mode", "no", "--save", ""]
        servers.enter_context(running(valkey, folder / "valkey.log"))
        s3 = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(folder / "s3"), "--host", HERE]
        keys = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
        (folder / "s3").mkdir()
        servers.enter_context(running([*s3, "--port", "9000"], folder / "s3.log", **keys))
        for port in (5432, 6379, 9000):
            wait_for_port(port)
        endpoint = f"http://{HERE}:9000"
        boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client(
            "s3", endpoint_url=endpoint
        ).create_bucket(Bucket="hub")

        clean = {key: value for key, value in os.environ.items() if key not in OWN} | TIMES | KEYS
        addresses = {
            "DATABASE_URL": f"postgresql://finetune_hub:{postgres.password}@{HERE}:5432/finetune_hub",
            "REDIS_URL": f"redis://{HERE}:6379/0",
            "ARTIFACT_URL": f"s3://hub/artifacts?endpoint={endpoint}",
            "FINETUNE_HUB_REDIRECT_DOWNLOADS": "1",
        }
        hub = RunningHub(folder / "home", clean | addresses)
        make_tiny_model(folder / "home" / "models" / "tiny")
        make_chat_rows(folder / "rows.jsonl", 64)
        hub.start()
        servers.callback(hub.stop)
        with hub.client() as client:
            client.import_base_model("tiny", "folder:tiny")
            client.push_dataset(folder / "rows.jsonl", "rows")
            wait_until(
                lambda: client.base_models("tiny")[0].state == "ready", seconds=60, what="the base model's import"
            )
            client.drain_worker("box")

        printed = hub.manage("invite_worker", "far").splitlines()
        invitation = dict(shlex.split(line)[1].split("=", 1) for line in printed[:3])
        command = ["ip", "netns", "exec", NAMESPACE, *COMMAND, "worker", "--name", "far"]
        far = folder / "far"
        with (folder / "far.log").open("wb") as log:
            worker = subprocess.Popen(
                [*command, "--home", str(far)], env=clean | invitation, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_until(
                lambda: "has joined" in (folder / "far.log").read_text(), seconds=60, what="the worker's joining"
            )
            yield Hosts(hub, worker, far)
        finally:
            worker.terminate()
            worker.wait(30)
            time.sleep(0.2)
