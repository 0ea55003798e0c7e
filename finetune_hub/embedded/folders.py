"""Where things lie in a home, who owns them, and who else may look: nobody.

HOME/            0700, or 0711 when root runs the hub and Postgres must pass through as another user
  secret_key  postgres_password      0600
  run/         up.json, environment.json, up.lock, sockets
  logs/        <part>.log, older ones .1 .2 .3
  postgres/    the database (a link when root's home is closed to the user that Postgres runs as)
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

# The kernel's limit for a unix socket's path is 108 bytes on Linux and 104 on macOS, with the closing zero.
SOCKET_PATH_MAX_BYTES = 103


@dataclass(frozen=True)
class Account:
    """A user that a child runs as."""

    uid: int
    gid: int


def default_home() -> Path:
    """`FINETUNE_HUB_HOME`, or `~/.finetune-hub`."""
    return Path(os.environ.get("FINETUNE_HUB_HOME") or "~/.finetune-hub").expanduser().absolute()


def prepare_home(home: Path) -> None:
    """Make the home and its folders, private to their owner. A home that exists keeps its mode.

    Raises:
        FolderUnusable: it cannot be made or written, or belongs to another user.
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
    """Make a folder that only its owner may enter, or tighten it.

    Raises:
        FolderUnusable: it exists and is a link or belongs to somebody else.
    """
    expected_uid = owner.uid if owner else os.geteuid()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != expected_uid:
            raise FolderUnusable(folder=folder, reason="it belongs to another user or is no folder") from None
    else:
        if owner:
            os.chown(folder, owner.uid, owner.gid)
    folder.chmod(0o700)


def write_private(file: Path, text: str, owner: Account | None = None) -> None:
    """Replace a file in one step; only its owner may read it."""
    new_file = file.with_name(f"{file.name}.new")
    # The folder may belong to another account: its links are not followed.
    descriptor = os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        if owner:
            os.fchown(stream.fileno(), owner.uid, owner.gid)
        stream.write(text)
    new_file.replace(file)


def keep_secret(file: Path) -> str:
    """The secret in a file; made on the first call and the same ever after."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(48))
    return file.read_text().strip()


def socket_folder(preferred: Path, socket_name: str, owner: Account | None = None) -> Path:
    """A private folder for a unix socket: the preferred one, or a short one where that path would be too long."""
    folder = preferred
    if len(os.fsencode(folder / socket_name)) > SOCKET_PATH_MAX_BYTES:
        digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"finetune-hub-{digest}"
    make_private_folder(folder, owner)
    return folder


def may_read(path: Path, account: Account) -> bool:
    """Whether an account can pass every folder above `path` and read it, by the permission bits."""
    return all(_allows(folder, account, stat.S_IXOTH) for folder in path.parents) and _allows(
        path, account, stat.S_IROTH | stat.S_IXOTH
    )


def may_enter(folder: Path, account: Account) -> bool:
    """Whether an account can pass through a folder and all above it."""
    return all(_allows(step, account, stat.S_IXOTH) for step in (folder, *folder.parents))


def _allows(path: Path, account: Account, bits: int) -> bool:
    """Whether all of `bits` (as others' bits) are granted to the account."""
    found = path.stat()
    if found.st_uid == account.uid:
        bits <<= 6
    elif found.st_gid == account.gid:
        bits <<= 3
    return found.st_mode & bits == bits
