"""Corpora as streams of lines or pairs, read as they come and never held whole.

A source is a file, a glob, an address on the web or a name on the Hugging Face hub. Several are mixed the way
their weights say, all of them ending at about the same time, and the same seed gives the same order. What is
held out is decided by a hash of the text itself, so that the split survives a change of files, of order and
of direction, and no variant in case, spacing or punctuation of a training sentence is in the test.
"""

from __future__ import annotations

import glob
import hashlib
import heapq
import math
import os
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from training import download, hub
from training.readers import Record, read_lines, records, volume
from training.shards import CorpusError, LocalShard, Shard

__all__ = [
    "CorpusError",
    "Digest",
    "Source",
    "Split",
    "digests",
    "expand",
    "files",
    "is_held_out",
    "lines",
    "normal_form",
    "pairs",
    "read_lines",
    "shuffled",
    "split_of",
]

Split = Literal["train", "development", "test", "held_out", "all"]
"""Of what is held out one half is for choosing among models (development), the other for scores (test)."""
Item = TypeVar("Item")

_WEB = ("http://", "https://")
_OPEN = 64  # files of one source that are read side by side


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One corpus of a recipe.

    path: a file or a glob; an http(s) address; or `hf://datasets/OWNER/NAME@REVISION/PATTERN` on the Hugging
        Face hub (see training/hub.py for what may be left out). `${VAR}` is taken from the environment.
        `.jsonl .ndjson .json` are JSON Lines, `.parquet` is parquet, anything else is text or TSV;
        `.gz .xz .bz2 .zst` are decompressed.
    weight: how often an epoch sees the source: 2.0 is twice, 0.5 a half chosen by hash.
    limit: only the first so many lines, taken evenly from its files; 0 is all of them.
    columns: empty for plain text; for TSV the name of every column (a language, or "-" for one not used).
    fields: of JSON Lines and parquet, the field that holds each language, `translation.en` within another;
        empty is a text of one language in the field `text`.
    sha256: hexadecimal, of what lies at an http(s) address; needed there and nowhere else.
    """

    path: str
    name: str
    licence: str
    attribution: str
    weight: float = 1.0
    limit: int = 0
    columns: tuple[str, ...] = ()
    fields: dict[str, str] = {}
    sha256: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight must be a positive number, not {self.weight}")
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, not {self.limit}")
        named = [column for column in self.columns if column != "-"]
        if len(named) != len(set(named)) or (self.columns and not named):
            raise ValueError(f"columns must name each language once, not {list(self.columns)}")
        if not all(language and field for language, field in self.fields.items()):
            raise ValueError(f"fields must give each language its field, not {self.fields}")
        if self.columns and self.fields:
            raise ValueError("columns are those of a tsv, fields those of jsonl and parquet: not both")
        if "${" not in self.path and (reason := _unfit(self.path, self.sha256)):
            raise ValueError(reason)

    @property
    def languages(self) -> tuple[str, ...]:
        """What each text of a record is, "-" for one not used; empty for plain text."""
        return tuple(self.fields) or self.columns


class Digest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the run folder keeps of a source: where the text came from and the sha256 of its files.

    revision: of a corpus on the hub, the commit that was read.
    """

    name: str
    licence: str
    attribution: str
    sha256: str
    revision: str = ""


def expand(path: str) -> str:
    """`path` with every `${VAR}` replaced from the environment. Raises CorpusError for a variable not set."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise CorpusError(path, f"the environment variable {name} is not set")
        return os.environ[name]

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, path))


def files(source: Source) -> list[Path]:
    """The files of a source on this machine, sorted; what lies on the web is fetched.

    Raises: CorpusError when there is none, or the source lies on the hub, where it is read.
    """
    place = _place(source)
    if place.startswith(hub.SCHEME):
        raise CorpusError(place, f"source {source.name} has no files on this machine")
    if place.startswith(_WEB):
        return [download.fetch(place, source.sha256)]
    found = sorted(Path(name) for name in glob.glob(place, recursive=True) if os.path.isfile(name))
    if not found and os.path.isfile(place):  # a name that holds a [ or a *
        found = [Path(place)]
    if not found:
        raise CorpusError(place, f"no such file (source {source.name})")
    return found


def digests(sources: Iterable[Source]) -> list[Digest]:
    """Provenance of every source. The files are hashed as they lie, compressed: several files of one source
    are the sha256 of the lines `sha256  file name`. Of files on the hub their path stands for the name, and
    the hub says their sha256 (for a small file that git itself holds, the id of its blob)."""
    out = []
    for source in sources:
        revision, shards = _shards(source)
        hashes = [shard.digest() for shard in shards]
        digest = hashes[0]
        if len(hashes) > 1:
            names = [
                shard.path.name if isinstance(shard, LocalShard) else shard.name.partition(revision + "/")[2]
                for shard in shards
            ]
            listing = "".join(f"{one}  {name}\n" for one, name in zip(hashes, names, strict=True))
            digest = hashlib.sha256(listing.encode()).hexdigest()
        out.append(Digest(source.name, source.licence, source.attribution, digest, revision))
    return out


def _unfit(path: str, sha256: str) -> str:
    """What is wrong with a place, in words; empty where nothing is."""
    scheme, separator, _ = path.partition("://")
    if separator and scheme not in ("http", "https", "hf"):
        return f"{scheme}:// is not read: only files, http(s):// and hf://"
    if path.startswith(_WEB):
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            return "an address needs the sha256 (64 hexadecimal digits, lower case) of what lies there"
    elif sha256:
        return "sha256 is for http(s) addresses; the files of a corpus are hashed when a job begins"
    return ""


def _place(source: Source) -> str:
    place = expand(source.path)
    if reason := _unfit(place, source.sha256):
        raise CorpusError(place, f"{reason} (source {source.name})")
    return place


def _shards(source: Source) -> tuple[str, Sequence[Shard]]:
    """The files of a source wherever they lie, sorted; on the hub with the commit they are of."""
    place = _place(source)
    if place.startswith(hub.SCHEME):
        return hub.find(place)
    return "", [LocalShard(path) for path in files(source)]


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

    Of a source with several languages only `language` is taken (it may be left out where one is named), and
    its English side, if there is one, decides what is held out: models of one language then hold out the
    same sentences as the translators.

    Raises: CorpusError.
    """
    readers = [(source, _column(source, language)) for source in sources]
    keys = {
        id(source): source.languages.index("en") if "en" in source.languages else column
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
            if language not in source.languages:
                raise CorpusError(source.path, f"source {source.name} has no column {language!r}")
        first, second = (source.languages.index(language) for language in languages)
        key = source.languages.index("en") if "en" in source.languages else min(first, second)
        places[id(source)] = (first, second, key)
    for source, fields in _mixed(sources, seed):
        first, second, key = places[id(source)]
        one, two = fields[first].strip(), fields[second].strip()
        if one and two and _kept(fields[key], held_out, split):
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
    if not source.languages:
        return 0
    named = [each for each in source.languages if each != "-"]
    if language in named:
        return source.languages.index(language)
    if len(named) == 1 and not language:
        return source.languages.index(named[0])
    raise CorpusError(source.path, f"source {source.name} has the columns {named}, not {language!r}")


def _mixed(sources: Sequence[Source], seed: int) -> Iterator[tuple[Source, list[str]]]:
    """Records of every file of every source, always from the stream that is least far along.

    Each file is a stream of its own; of a source of more than 64, files are read one after the other in 64.
    """
    streams: list[tuple[Source, int, float, Iterator[Record]]] = []
    for source in sources:
        _, shards = _shards(source)
        parts = [
            (shard, source.limit // len(shards) + (index < source.limit % len(shards)))
            for index, shard in enumerate(shards)
        ]
        parts = [(shard, limit) for shard, limit in parts if limit or not source.limit]
        for start in range(min(_OPEN, len(parts))):
            row = parts[start::_OPEN]
            total = source.weight * sum(volume(shard) for shard, _ in row)
            passes = chain.from_iterable(_passes(source, shard, limit, seed) for shard, limit in row)
            streams.append((source, sum(limit for _, limit in row), total, passes))
    random.Random(seed).shuffle(streams)
    heap = [(0.0, order, 0.0, 0) for order in range(len(streams))]  # progress, stream, share, records
    while heap:
        _, order, done, count = heap[0]
        source, limit, total, stream = streams[order]
        record = next(stream, None)
        if record is None:
            heapq.heappop(heap)
            continue
        texts, share = record
        done += share
        count += 1
        progress = done / total if total else 1.0
        if limit:
            progress = max(progress, count / (limit * source.weight))
        heapq.heapreplace(heap, (progress, order, done, count))
        yield source, texts


def _passes(source: Source, shard: Shard, limit: int, seed: int) -> Iterator[Record]:
    """One file as often as its source's weight says."""
    whole = int(source.weight)
    part = source.weight - whole
    for _ in range(whole):
        yield from _records(source, shard, limit)
    if part > 0:
        salt = seed.to_bytes(8, "big", signed=True)
        for texts, share in _records(source, shard, limit):
            if _uniform("\t".join(texts), salt) < part:
                yield texts, share


def _records(source: Source, shard: Shard, limit: int) -> Iterator[Record]:
    return islice(records(shard, source.columns, source.fields), limit or None)
