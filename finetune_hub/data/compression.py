"""Compressed files, read as a stream. gzip and Zstandard are detected by their first bytes, never by file name.

A file with an extreme compression ratio is refused before it fills memory or disk: real text compresses 3 to 20 times,
a decompression bomb a thousand times or more.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, cast

import zstandard

from finetune_hub.data.defects import BrokenFile
from finetune_hub.spec.sizes import size_in_words

MAX_RATIO = 200
RATIO_COUNTS_FROM_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 32 << 30
_BUFFER_BYTES = 1 << 20
_MAX_WINDOW_BYTES = 128 << 20  # As Zstandard's `--long`; a frame could request far more.
_PACKED_BYTES = 1 << 10  # Even of a bomb, this many bytes decompress to at most 32 MiB.

Compression = Literal["gzip", "zstd"]
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive"}


def compression_of(path: Path) -> Compression | None:
    """Return how the file is compressed; None if it is not.

    Raises:
        BrokenFile: the compression format is not supported.
    """
    with path.open("rb") as file:
        start = file.read(8)
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            raise BrokenFile(
                "unknown_compression",
                f"is compressed as {name.removeprefix('a ')}",
                "Decompress it, or use gzip or zstd.",
                whole_file=True,
            )
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def open_unpacked(path: Path) -> BinaryIO:
    """Open the file decompressed. Reading raises `BrokenFile` if the data are damaged or a decompression bomb."""
    compression = compression_of(path)
    if compression is None:
        return path.open("rb", buffering=_BUFFER_BYTES)
    return cast(BinaryIO, io.BufferedReader(_Unpacked(path, compression), _BUFFER_BYTES))


class _Unpacked(io.RawIOBase):
    def __init__(self, path: Path, compression: Compression) -> None:
        super().__init__()
        self._packed = path.open("rb")
        self._name = compression
        self._bytes = gzip.GzipFile(fileobj=self._packed) if compression == "gzip" else _ZstdFrames(self._packed)
        self._unpacked_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._bytes.read(len(buffer))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as damaged:
            raise BrokenFile(
                "damaged_compression",
                f"the {self._name} data are truncated or damaged here ({damaged})",
                "Compress the file again.",
            ) from damaged
        buffer[: len(data)] = data
        self._unpacked_bytes += len(data)
        self._refuse_bomb()
        return len(data)

    def _refuse_bomb(self) -> None:
        ratio = self._unpacked_bytes / max(1, self._packed.tell())
        if self._unpacked_bytes < RATIO_COUNTS_FROM_BYTES:
            return
        if ratio > MAX_RATIO or self._unpacked_bytes > MAX_UNPACKED_BYTES:
            raise BrokenFile(
                "unpacks_too_large",
                f"the {self._name} data decompress to {ratio:,.0f} times their size "
                f"({size_in_words(self._unpacked_bytes)} so far)",
                f"Decompress the file and check it: a ratio above {MAX_RATIO} is treated as a decompression bomb.",
            )

    def close(self) -> None:
        self._packed.close()
        super().close()


class _ZstdFrames:
    """Consecutive Zstandard frames. `stream_reader` would accept a truncated file as complete."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self._frame_is_open = False
        self._ready = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; empty at the end.

        Raises:
            EOFError: the last frame is truncated.
        """
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._frame_is_open = self._decompressor.decompressobj(), False
            data = data or self._packed.read(_PACKED_BYTES)
            if not data:
                if self._frame_is_open:
                    raise EOFError("the last frame is truncated")
                return b""
            self._frame_is_open = True
            self._ready = memoryview(self._frame.decompress(data))
        data, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return data
