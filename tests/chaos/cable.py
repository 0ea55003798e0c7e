"""A network cable that can be pulled: a TCP port of this machine that leads to a server's unix socket.

A pulled cable is silent, as a partition is: what is on its way waits, and no connection is refused or reset.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

CHUNK_BYTES = 1 << 16


class Cable:
    """Connections to `port` reach the socket while the cable is plugged in."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.plugged = threading.Event()
        self.plugged.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        self.plugged.clear()

    def plug_in(self) -> None:
        self.plugged.set()

    def close(self) -> None:
        self.plug_in()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        self.plugged.wait()
        with near, socket.socket(socket.AF_UNIX) as far:
            try:
                far.connect(str(self.target))
            except OSError:
                return  # The server is down: the caller sees a closed connection.
            back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
            back.start()
            self._carry(near, far)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                self.plugged.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # The other direction was faster.
