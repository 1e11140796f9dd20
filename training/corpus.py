"""Corpora as streams: local text and TSV files, compressed or not, read line by line and never held whole.

Several sources are mixed the way their weights say, every source ending at about the same time, and the same
seed gives the same order. What is held out is decided by a hash of the text itself, so that the split
survives a change of files, of order and of direction, and no variant in case, spacing or punctuation of a
training sentence is in the test.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import heapq
import io
import lzma
import math
import os
import random
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

import msgspec

from bundle.errors import VoisinError

Split = Literal["train", "development", "test", "held_out", "all"]
"""Of what is held out one half is for choosing among models (development), the other for scores (test)."""
Item = TypeVar("Item")

_COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
# Text per byte of a compressed file. Only used to pace the mixing, where a rough figure is enough.
_RATIO = 3.5


class CorpusError(VoisinError):
    """A corpus that cannot be read as the recipe says. The message begins with the file (and the line)."""

    def __init__(self, place: str | Path, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = str(place)
        self.reason = reason


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One corpus of a recipe.

    path: a file or a glob; `${VAR}` is taken from the environment. `.gz .xz .bz2 .zst` are decompressed.
    weight: how often an epoch sees the source: 2.0 is twice, 0.5 a half chosen by hash.
    limit: only the first so many lines, taken evenly from its files; 0 is all of them.
    columns: empty for plain text; for TSV the name of every column (a language, or "-" for one not used).
    """

    path: str
    name: str
    licence: str
    attribution: str
    weight: float = 1.0
    limit: int = 0
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight must be a positive number, not {self.weight}")
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, not {self.limit}")
        named = [column for column in self.columns if column != "-"]
        if len(named) != len(set(named)) or (self.columns and not named):
            raise ValueError(f"columns must name each language once, not {list(self.columns)}")


class Digest(msgspec.Struct, frozen=True):
    """What the run folder keeps of a source: where the text came from and the sha256 of its files."""

    name: str
    licence: str
    attribution: str
    sha256: str


def expand(path: str) -> str:
    """`path` with every `${VAR}` replaced from the environment. Raises CorpusError for a variable not set."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise CorpusError(path, f"the environment variable {name} is not set")
        return os.environ[name]

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, path))


def files(source: Source) -> list[Path]:
    """The files of a source, sorted. Raises CorpusError when there is none."""
    pattern = expand(source.path)
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    if not found and os.path.isfile(pattern):  # a name that holds a [ or a *
        found = [Path(pattern)]
    if not found:
        raise CorpusError(pattern, f"no such file (source {source.name})")
    return found


def digests(sources: Iterable[Source]) -> list[Digest]:
    """Provenance of every source. The files are hashed as they lie, compressed: several files of one source
    are the sha256 of the lines `sha256  file name`."""
    out = []
    for source in sources:
        hashes = []
        for path in files(source):
            with path.open("rb") as file:
                hashes.append((hashlib.file_digest(file, "sha256").hexdigest(), path.name))
        if len(hashes) == 1:
            digest = hashes[0][0]
        else:
            listing = "".join(f"{one}  {name}\n" for one, name in hashes)
            digest = hashlib.sha256(listing.encode()).hexdigest()
        out.append(Digest(source.name, source.licence, source.attribution, digest))
    return out


def normal_form(text: str) -> str:
    """What the held-out hash sees: NFKC, lower case, words only, single spaces."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
    return " ".join(words) or text.strip()


def is_held_out(text: str, fraction: float) -> bool:
    """Whether `text` belongs to the held-out part. For pairs, `text` is the English side."""
    return split_of(text, fraction) != "train"


def split_of(text: str, fraction: float) -> Literal["train", "development", "test"]:
    """The part that `text` belongs to, when `fraction` of a corpus is held out, half of it for each use."""
    place = _uniform(normal_form(text)) if fraction > 0 else 1.0
    if place >= fraction:
        return "train"
    return "development" if place < fraction / 2 else "test"


def lines(
    sources: Sequence[Source],
    *,
    language: str = "",
    held_out: float = 0.0,
    split: Split = "all",
    seed: int = 0,
) -> Iterator[str]:
    """The lines of all sources, mixed by weight; empty lines are dropped and edges stripped.

    Of a TSV source only the column `language` is read (it may be left out where one column is named), and its
    English column, if there is one, decides what is held out: models of one language then hold out the same
    sentences as the translators.

    Raises: CorpusError.
    """
    readers = [(source, _column(source, language)) for source in sources]
    keys = {
        id(source): source.columns.index("en") if "en" in source.columns else column
        for source, column in readers
    }
    columns = {id(source): column for source, column in readers}
    for source, fields in _mixed(sources, seed):
        text = fields[columns[id(source)]].strip()
        if text and _kept(fields[keys[id(source)]], held_out, split):
            yield text


def pairs(
    sources: Sequence[Source],
    languages: tuple[str, str] = ("en", "fr"),
    *,
    held_out: float = 0.0,
    split: Split = "all",
    seed: int = 0,
) -> Iterator[tuple[str, str]]:
    """Sentence pairs in the order of `languages`, mixed by weight; a pair with an empty side is dropped.

    The split looks at the English side in both directions (at the first named column where none is English).

    Raises: CorpusError, also for a source that lacks one of the two languages.
    """
    places = {}
    for source in sources:
        for language in languages:
            if language not in source.columns:
                raise CorpusError(source.path, f"source {source.name} has no column {language!r}")
        first, second = (source.columns.index(language) for language in languages)
        places[id(source)] = (first, second, source.columns.index("en") if "en" in source.columns else None)
    for source, fields in _mixed(sources, seed):
        first, second, key = places[id(source)]
        one, two = fields[first].strip(), fields[second].strip()
        if one and two and _kept(fields[min(first, second) if key is None else key], held_out, split):
            yield one, two


def shuffled(items: Iterable[Item], size: int, seed: int) -> Iterator[Item]:
    """`items` shuffled through a buffer of `size` of them; the same seed gives the same order."""
    draw = random.Random(seed)
    buffer: list[Item] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = draw.randrange(size) if size else 0
        if size:
            item, buffer[place] = buffer[place], item
        yield item
    draw.shuffle(buffer)
    yield from buffer


def _kept(key: str, fraction: float, split: Split) -> bool:
    if split == "all":
        return True
    part = split_of(key, fraction)
    return part == split or (split == "held_out" and part != "train")


def _uniform(text: str, salt: bytes = b"") -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=salt).digest()
    return int.from_bytes(digest, "big") / 2**64


def _column(source: Source, language: str) -> int:
    if not source.columns:
        return 0
    named = [column for column in source.columns if column != "-"]
    if language in named:
        return source.columns.index(language)
    if len(named) == 1 and not language:
        return source.columns.index(named[0])
    raise CorpusError(source.path, f"source {source.name} has the columns {named}, not {language!r}")


def _mixed(sources: Sequence[Source], seed: int) -> Iterator[tuple[Source, list[str]]]:
    """Records of every file of every source, always from the file that is least far along."""
    streams: list[tuple[Source, int, float, Iterator[list[str]]]] = []
    for source in sources:
        paths = files(source)
        for index, path in enumerate(paths):
            limit = source.limit // len(paths) + (index < source.limit % len(paths))
            if source.limit and not limit:
                continue
            volume = source.weight * path.stat().st_size * (_RATIO if path.suffix in _COMPRESSED else 1.0)
            streams.append((source, limit, volume, _passes(source, path, limit, seed)))
    random.Random(seed).shuffle(streams)
    heap = [(0.0, order, 0, 0) for order in range(len(streams))]  # progress, stream, characters, records
    while heap:
        _, order, characters, records = heap[0]
        source, limit, volume, stream = streams[order]
        record = next(stream, None)
        if record is None:
            heapq.heappop(heap)
            continue
        characters += sum(map(len, record)) + len(record)
        records += 1
        progress = characters / volume if volume else 1.0
        if limit:
            progress = max(progress, records / (limit * source.weight))
        heapq.heapreplace(heap, (progress, order, characters, records))
        yield source, record


def _passes(source: Source, path: Path, limit: int, seed: int) -> Iterator[list[str]]:
    """One file as often as its source's weight says."""
    whole = int(source.weight)
    part = source.weight - whole
    for _ in range(whole):
        yield from _records(source, path, limit)
    if part > 0:
        salt = seed.to_bytes(8, "big", signed=True)
        for record in _records(source, path, limit):
            if _uniform("\t".join(record), salt) < part:
                yield record


def _records(source: Source, path: Path, limit: int) -> Iterator[list[str]]:
    """The lines of one file, cut into the source's columns."""
    width = len(source.columns)
    for number, line in enumerate(read_lines(path), start=1):
        if limit and number > limit:
            return
        if not width:
            yield [line]
            continue
        fields = line.split("\t")
        if len(fields) != width:
            raise CorpusError(
                f"{path}:{number}",
                f"expected {width} columns ({' '.join(source.columns)}), found {len(fields)}",
            )
        yield fields


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, decompressed by its suffix, without their line ends.

    Only a line feed ends a line: a U+2028 in a sentence does not tear a pair apart.

    Raises: CorpusError for a missing file, bytes that are not UTF-8, or a damaged compressed file.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}:{number}", f"not UTF-8: {error.reason} at byte {error.start}") from error
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path}:{number + 1}", f"damaged compressed file: {error}") from error
    except OSError as error:
        raise CorpusError(path, error.strerror or f"damaged compressed file: {error}") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return cast("IO[bytes]", lzma.open(path, "rb"))
    if path.suffix == ".bz2":
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path), 1 << 16)
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """A .zst file of one or more frames that, unlike zstandard's own reader, reports a truncated frame."""

    def __init__(self, path: Path) -> None:
        import zstandard  # only when such a file is met

        self._failure: type[Exception] = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._file = path.open("rb")
        self._text = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._text:
            data = self._file.read(1 << 16)
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

    def close(self) -> None:
        self._file.close()
        super().close()
