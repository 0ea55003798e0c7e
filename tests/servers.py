"""A pytest plugin: one Postgres and one Valkey for all tests, started before Django's settings are read.

`-p tests.servers` (in pyproject.toml) loads it early. DATABASE_URL and REDIS_URL, where set, name servers to use
instead. Under xdist the controller starts them, and each worker gets a home and a Valkey database of its own
(pytest-django gives each a database of its own).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from finetune_hub.embedded.children import Supervisor
from finetune_hub.embedded.folders import prepare_home
from finetune_hub.embedded.postgres import UNSAFE_FAST_SETTINGS, Postgres
from finetune_hub.embedded.valkey import Valkey

FAST_SETTINGS = {**UNSAFE_FAST_SETTINGS, "shared_buffers": "32MB", "max_connections": "60"}
# These use neither database nor queue: a run of them alone starts no server.
PURE_FOLDERS = {"artifacts", "data", "embedded", "engine", "gates", "scheduling", "spec"}
NOT_STARTED = "/no-server-for-tests-of-pure-folders"

_FOLDER = pytest.StashKey[Path]()
_SUPERVISOR = pytest.StashKey[Supervisor]()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Set the environment before pytest-django reads the settings; a wrapper runs ahead of its hook."""
    xdist_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if xdist_worker:
        _set_aside(int(xdist_worker.removeprefix("gw")))
    else:
        folder = Path(tempfile.mkdtemp(prefix="fh-test-"))
        early_config.stash[_FOLDER] = folder
        _set_environment(folder)
        if _names_pure_tests_only(early_config.invocation_params.args):
            os.environ.setdefault("DATABASE_URL", f"postgresql:///test?host={NOT_STARTED}")
            os.environ.setdefault("REDIS_URL", f"unix://{NOT_STARTED}?db=0")
        else:
            early_config.stash[_SUPERVISOR] = _start_servers(folder)
    try:
        return (yield)
    except BaseException:
        pytest_unconfigure(early_config)  # pytest does not call it when a settings file cannot be read.
        raise


def pytest_unconfigure(config: pytest.Config) -> None:
    if _SUPERVISOR in config.stash:
        config.stash[_SUPERVISOR].stop()
    if _FOLDER in config.stash:
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


def _names_pure_tests_only(arguments: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether a command line names tests, and all of them in pure folders."""
    tests = Path(__file__).parent
    paths = [Path(str(argument).partition("::")[0]).absolute() for argument in arguments]
    named = [path.relative_to(tests).parts for path in paths if path.exists() and path.is_relative_to(tests)]
    return bool(named) and all(parts and parts[0] in PURE_FOLDERS for parts in named)


def _set_environment(folder: Path) -> None:
    """What the settings need beside the servers."""
    folder.chmod(0o711)  # As root, Postgres runs as another user and passes through.
    _use_home(folder / "home")
    os.environ["SECRET_KEY"] = "test"
    os.environ["FINETUNE_HUB_WORKER_NAME"] = "test"
    os.environ.setdefault("FINETUNE_HUB_URL", "http://testserver")
    os.environ.setdefault("ALLOWED_HOSTS", "testserver,localhost,127.0.0.1")


def _use_home(home: Path) -> None:
    prepare_home(home)
    os.environ["FINETUNE_HUB_HOME"] = str(home)
    os.environ["ARTIFACT_URL"] = (home / "artifacts").as_uri()


def _start_servers(folder: Path) -> Supervisor:
    """Start the servers that the environment does not name, and name them there."""
    supervisor = Supervisor(folder / "home" / "logs")
    try:
        if "DATABASE_URL" not in os.environ:
            postgres = Postgres(folder / "postgres", folder / "postgres_password", settings=FAST_SETTINGS)
            os.environ["DATABASE_URL"] = postgres.url
            supervisor.start(postgres.program())
        if "REDIS_URL" not in os.environ:
            valkey = Valkey(folder / "valkey")
            os.environ["REDIS_URL"] = valkey.url
            supervisor.start(valkey.program())
        for child in supervisor.children:
            supervisor.wait_until_ready(child)
    except BaseException:
        supervisor.stop()
        raise
    return supervisor


def _set_aside(number: int) -> None:
    """Part this xdist worker from the others, which share the controller's servers and this machine's cores."""
    _use_home(Path(os.environ["FINETUNE_HUB_HOME"]).with_name(f"home-{number}"))
    os.environ["REDIS_URL"] = os.environ["REDIS_URL"].replace("?db=0", f"?db={number % 16}")
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
