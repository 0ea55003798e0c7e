"""The layout of a home: folders, owners and permissions. Everything is private to its owner.

HOME/            0700, or 0711 if root runs the hub, so that Postgres can pass through as another user
  secret_key  postgres_password      0600
  run/         up.json, environment.json, up.lock, sockets
  logs/        <part>.log, older ones .1 .2 .3
  postgres/    the database (a link if the user that Postgres runs as cannot enter root's home)
  valkey/      the queue
  artifacts/   adapters and datasets
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetune_hub.embedded.errors import FolderUnusable

# The kernel limits a Unix socket's path to 108 bytes on Linux and 104 on macOS, including the final NUL.
SOCKET_PATH_MAX_BYTES = 103


@dataclass(frozen=True)
class Account:
    """A user that a child runs as."""

    uid: int
    gid: int


def default_home() -> Path:
    """Return `FINETUNE_HUB_HOME` or `~/.finetune-hub`."""
    return Path(os.environ.get("FINETUNE_HUB_HOME") or "~/.finetune-hub").expanduser().absolute()


def prepare_home(home: Path) -> None:
    """Create the home and its folders, private to their owner. An existing home keeps its mode.

    Raises:
        FolderUnusable: it cannot be created or written, or belongs to another user.
    """
    try:
        if not home.exists():
            home.mkdir(parents=True)
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for name in ("run", "logs", "artifacts"):
            make_private_folder(home / name)
    except OSError as error:
        raise FolderUnusable(folder=home, reason=(error.strerror or str(error)).lower()) from error


def make_private_folder(folder: Path, owner: Account | None = None) -> None:
    """Create a folder that only its owner can enter, or restrict an existing one.

    Raises:
        FolderUnusable: it exists and is a link or belongs to another user.
    """
    expected_uid = owner.uid if owner else os.geteuid()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != expected_uid:
            raise FolderUnusable(folder=folder, reason="it belongs to another user or is not a folder") from None
    else:
        if owner:
            os.chown(folder, owner.uid, owner.gid)
    folder.chmod(0o700)


def write_private(file: Path, text: str, owner: Account | None = None) -> None:
    """Replace a file atomically. Only its owner can read it."""
    new_file = file.with_name(f"{file.name}.new")
    # The folder may belong to another account, so do not follow links.
    descriptor = os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        if owner:
            os.fchown(stream.fileno(), owner.uid, owner.gid)
        stream.write(text)
    new_file.replace(file)


def keep_secret(file: Path) -> str:
    """Return the secret in a file, which is created on the first call."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(48))
    return file.read_text().strip()


def socket_folder(preferred: Path, socket_name: str, owner: Account | None = None) -> Path:
    """Return a private folder for a Unix socket: the preferred one, or a short one if its path is too long."""
    folder = preferred
    if len(os.fsencode(folder / socket_name)) > SOCKET_PATH_MAX_BYTES:
        digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"finetune-hub-{digest}"
    make_private_folder(folder, owner)
    return folder


def may_read(path: Path, account: Account) -> bool:
    """Return whether the account's permission bits allow it to reach and read `path`."""
    return all(_allows(folder, account, stat.S_IXOTH) for folder in path.parents) and _allows(
        path, account, stat.S_IROTH | stat.S_IXOTH
    )


def may_enter(folder: Path, account: Account) -> bool:
    """Return whether the account can pass through the folder and all its parents."""
    return all(_allows(step, account, stat.S_IXOTH) for step in (folder, *folder.parents))


def _allows(path: Path, account: Account, bits: int) -> bool:
    """Return whether all of `bits` (in the position for others) are granted to the account."""
    found = path.stat()
    if found.st_uid == account.uid:
        bits <<= 6
    elif found.st_gid == account.gid:
        bits <<= 3
    return found.st_mode & bits == bits
