"""One file of a corpus, wherever it lies: opened, decompressed, cut into lines of bytes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from bundle.errors import VoisinError

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")


class CorpusError(VoisinError):
    """A corpus that cannot be read as the recipe says. The message begins with the file (and the line)."""

    def __init__(self, place: str | Path, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = str(place)
        self.reason = reason


class Shard(Protocol):
    """A file as it lies, on this disk or on another machine."""

    @property
    def name(self) -> str:
        """Its path or address: what messages begin with."""

    @property
    def size(self) -> int:
        """Bytes as stored, compressed where it is."""

    def open(self) -> IO[bytes]:
        """The bytes as stored; seekable. Raises OSError or CorpusError."""

    def digest(self) -> str:
        """What tells this file from every other: the hexadecimal sha256 of the bytes as stored."""


@dataclass(frozen=True)
class LocalShard:
    """A file on this machine."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open(self) -> IO[bytes]:
        return self.path.open("rb")

    def digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def compression(name: str) -> str:
    """The suffix that says how a file is compressed; empty where it is not."""
    suffix = PurePosixPath(name).suffix
    return suffix if suffix in COMPRESSED else ""


def raw_lines(shard: Shard) -> Iterator[bytes]:
    """The lines of a file, decompressed by its suffix, with their line ends.

    Raises: CorpusError for a missing file or a damaged compressed one.
    """
    number = 0
    try:
        with shard.open() as stored, _decompressed(stored, compression(shard.name)) as file:
            for raw in file:
                number += 1
                yield raw
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{shard.name}:{number + 1}", f"damaged compressed file: {error}") from error
    except OSError as error:
        raise CorpusError(shard.name, error.strerror or f"damaged compressed file: {error}") from error


def _decompressed(stored: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(stored, "rb"))
    if suffix == ".xz":
        return cast("IO[bytes]", lzma.open(stored, "rb"))
    if suffix == ".bz2":
        return cast("IO[bytes]", bz2.open(stored, "rb"))
    if suffix == ".zst":
        return io.BufferedReader(_Zstandard(stored), 1 << 16)
    return stored


class _Zstandard(io.RawIOBase):
    """A .zst file of one or more frames that, unlike zstandard's own reader, reports a truncated frame."""

    def __init__(self, stored: IO[bytes]) -> None:
        import zstandard  # only when such a file is met

        self._failure: type[Exception] = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._stored = stored
        self._text = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._text:
            data = self._stored.read(1 << 16)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame is not complete")
                return 0
            self._text = self._decompress(data)
        count = min(len(buffer), len(self._text))
        buffer[:count] = self._text[:count]
        self._text = self._text[count:]
        return count

    def _decompress(self, data: bytes) -> bytes:
        out = []
        while data:
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            frame = self._frame
            try:
                out.append(frame.decompress(data))
            except self._failure as error:
                raise EOFError(str(error)) from error
            data = b""
            if frame.eof:
                data = frame.unused_data
                self._frame = None
        return b"".join(out)
