"""From lines and pairs to arrays of ids, a chunk at a time.

A chunk is ``corpus.shuffle`` consecutive lines (or pairs) of the mixed stream: shuffled, encoded into flat
numpy arrays and cut into batches. Which batches a chunk gives depends on the seed, the epoch and the chunk's
number alone, so three integers say where a job stands and a resumed job reads on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bundle.errors import VoisinError

Ids = NDArray[np.int64]
Item = TypeVar("Item")
Batch = TypeVar("Batch")

#: target that carries no loss (torch's ``ignore_index``)
IGNORE = -100


class NoData(VoisinError):
    """A corpus from which not one batch can be made."""


class Encoder(Protocol):
    """What batching needs of ``bundle.tokenizer.Tokenizer``."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class LanguageBatch:
    """``ids`` and ``targets`` int64[batch, time]; ``fresh`` bool[batch]: rows that start from the zero
    state."""

    ids: Ids
    targets: Ids
    fresh: NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        """Targets that carry a loss."""
        return int((self.targets != IGNORE).sum())

    def part(self, rows: slice) -> LanguageBatch:
        """Some of the rows. In place of none comes one that carries no loss: every process of a group has to
        take part in the backward pass."""
        if rows.start == rows.stop:
            return LanguageBatch(self.ids[:1], np.full_like(self.targets[:1], IGNORE), self.fresh[:1])
        return LanguageBatch(self.ids[rows], self.targets[rows], self.fresh[rows])


@dataclass(frozen=True)
class TranslationBatch:
    """Right-padded pairs.

    ``source`` int64[batch, source] ends with eos, of which ``source_counts`` int64[batch] are real;
    ``target`` int64[batch, time] begins with bos, ``targets`` is what follows each token and ends with eos.
    """

    source: Ids
    source_counts: Ids
    target: Ids
    targets: Ids

    @property
    def tokens(self) -> int:
        """Targets that carry a loss."""
        return int((self.targets != IGNORE).sum())

    def part(self, rows: slice) -> TranslationBatch:
        """Some of the rows; in place of none, one that carries no loss (as :meth:`LanguageBatch.part`)."""
        if rows.start == rows.stop:
            nothing = np.full_like(self.targets[:1], IGNORE)
            return TranslationBatch(self.source[:1], self.source_counts[:1], self.target[:1], nothing)
        return TranslationBatch(
            self.source[rows], self.source_counts[rows], self.target[rows], self.targets[rows]
        )


@dataclass
class Position:
    """The next batch: number of the epoch, of the chunk in it, of the batch in that. All from 0."""

    epoch: int = 0
    chunk: int = 0
    batch: int = 0


class Stream(Generic[Item, Batch]):
    """An endless iterator over batches that knows its place.

    Args:
        read: items of one epoch, in an order that depends on the epoch's number alone.
        cut: batches of one chunk, given the chunk's own random numbers.
        size: items in a chunk.
    """

    def __init__(
        self,
        read: Callable[[int], Iterable[Item]],
        cut: Callable[[list[Item], np.random.Generator], Sequence[Batch]],
        *,
        size: int,
        seed: int,
        position: Position | None = None,
    ) -> None:
        self.position = position or Position()
        self._read = read
        self._cut = cut
        self._size = size
        self._seed = seed
        self._batches = self._run()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def _run(self) -> Iterator[Batch]:
        here = self.position
        while True:
            items = iter(self._read(here.epoch))
            self._skip(items, here.chunk * self._size)
            found = here.chunk > 0 or here.batch > 0
            while chunk := list(islice(items, self._size)):
                random = np.random.default_rng([self._seed, here.epoch, here.chunk])
                batches = self._cut(chunk, random)
                while here.batch < len(batches):
                    found = True
                    here.batch += 1
                    yield batches[here.batch - 1]
                here.chunk, here.batch = here.chunk + 1, 0
            if not found:
                raise NoData("the corpus gives no batch: it is empty, or all of it is held out or too long")
            here.epoch, here.chunk = here.epoch + 1, 0

    @staticmethod
    def _skip(items: Iterator[Item], count: int) -> None:
        next(islice(items, count, count), None)


def language_chunks(
    tokenizer: Encoder, *, bos: int, eos: int, rows: int, sequence: int, carried: bool
) -> Callable[[list[str], np.random.Generator], list[LanguageBatch]]:
    """Cutter for language models: lines packed as ``bos line eos``, one after the other.

    Args:
        carried: True gives ``rows`` contiguous streams, window after window, for truncated back-propagation
            with carried state; False gives windows of the packed text in random order.
    """

    def cut(lines: list[str], random: np.random.Generator) -> list[LanguageBatch]:
        packed = pack(tokenizer, [lines[index] for index in random.permutation(len(lines))], bos, eos)
        if carried:
            return _streams(packed, bos, rows, sequence)
        return _windows(packed, bos, rows, sequence, random)

    return cut


def pack(tokenizer: Encoder, lines: Iterable[str], bos: int, eos: int) -> Ids:
    """``bos line eos bos line eos ...`` as int64[tokens]."""
    parts = [np.asarray([bos, *ids, eos], dtype=np.int64) for ids in map(tokenizer.encode, lines)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _pairs_of(ids: Ids, bos: int) -> tuple[Ids, Ids]:
    """Inputs and what follows them. That a line follows the one before is not a thing to learn."""
    following = ids[..., 1:]
    return ids[..., :-1], np.where(following == bos, IGNORE, following)


def _streams(packed: Ids, bos: int, rows: int, sequence: int) -> list[LanguageBatch]:
    rows = max(1, min(rows, (len(packed) - 1) // sequence))
    length = (len(packed) - 1) // rows
    ids, targets = _pairs_of(packed, bos)
    ids, targets = ids[: rows * length].reshape(rows, length), targets[: rows * length].reshape(rows, length)
    batches = []
    for start in range(0, length, sequence):
        part = slice(start, start + sequence)
        # Lines are independent of each other: a row whose window opens a line starts as serving does, from
        # zeros.
        fresh = ids[:, start] == bos if start else np.ones(rows, np.bool_)
        batches.append(LanguageBatch(ids[:, part], targets[:, part], fresh))
    return batches


def _windows(
    packed: Ids, bos: int, rows: int, sequence: int, random: np.random.Generator
) -> list[LanguageBatch]:
    ids, targets = _pairs_of(packed, bos)
    count = len(ids) // sequence
    if not count:
        return [LanguageBatch(ids[None], targets[None], np.ones(1, np.bool_))] if len(ids) else []
    # The offset moves the cuts from epoch to epoch, so that no token is always the first of its window.
    offset = int(random.integers(len(ids) - count * sequence + 1))
    part = slice(offset, offset + count * sequence)
    ids, targets = ids[part].reshape(count, sequence), targets[part].reshape(count, sequence)
    order = random.permutation(count)
    batches = []
    for start in range(0, count, rows):
        chosen = order[start : start + rows]
        batches.append(LanguageBatch(ids[chosen], targets[chosen], np.ones(len(chosen), np.bool_)))
    return batches


def translation_chunks(
    encode: Callable[[str, np.random.Generator], list[int]],
    *,
    bos: int,
    eos: int,
    pad: int,
    batch_tokens: int,
    max_tokens: int,
) -> Callable[[list[tuple[str, str]], np.random.Generator], list[TranslationBatch]]:
    """Cutter for translators: pairs of like length together, at most ``batch_tokens`` a side, padding
    included.

    Args:
        encode: ids of a text, given random numbers to cut it by if it likes.
    """

    def cut(pairs: list[tuple[str, str]], random: np.random.Generator) -> list[TranslationBatch]:
        encoded = encode_pairs(lambda text: encode(text, random), pairs, max_tokens)
        batches = bucket(encoded, batch_tokens, random)
        return [pad_pairs([encoded[index] for index in rows], bos, eos, pad) for rows in batches]

    return cut


def encode_pairs(
    encode: Callable[[str], list[int]], pairs: Iterable[tuple[str, str]], max_tokens: int
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Both sides as int32 arrays; pairs with an empty or too long side are left out."""
    kept = []
    for source, target in pairs:
        one, two = encode(source), encode(target)
        if 0 < len(one) <= max_tokens and 0 < len(two) <= max_tokens:
            kept.append((np.asarray(one, np.int32), np.asarray(two, np.int32)))
    return kept


def bucket(
    encoded: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]],
    batch_tokens: int,
    random: np.random.Generator | None,
) -> list[list[int]]:
    """Rows of each batch: neighbours in length, the batches in random order (as sorted without
    ``random``)."""
    sizes = np.array([(len(target) + 1, len(source) + 1) for source, target in encoded]).reshape(-1, 2)
    ties = random.permutation(len(encoded)) if random is not None else np.arange(len(encoded))
    batches: list[list[int]] = []
    widest = 0
    for index in np.lexsort((ties, sizes[:, 1], sizes[:, 0])):
        widest = max(widest, int(sizes[index].max()))
        if not batches or widest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            widest = int(sizes[index].max())
        batches[-1].append(int(index))
    if random is not None:
        return [batches[index] for index in random.permutation(len(batches))]
    return batches


def pad_pairs(
    encoded: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], bos: int, eos: int, pad: int
) -> TranslationBatch:
    """One right-padded batch."""
    rows = len(encoded)
    source = np.full((rows, max(len(one) for one, _ in encoded) + 1), pad, np.int64)
    target = np.full((rows, max(len(two) for _, two in encoded) + 1), pad, np.int64)
    targets = np.full(target.shape, IGNORE, np.int64)
    for row, (one, two) in enumerate(encoded):
        source[row, : len(one)] = one
        source[row, len(one)] = eos
        target[row, 0] = bos
        target[row, 1 : len(two) + 1] = two
        targets[row, : len(two)] = two
        targets[row, len(two)] = eos
    counts = np.array([len(one) + 1 for one, _ in encoded], np.int64)
    return TranslationBatch(source, counts, target, targets)


def line_batches(
    tokenizer: Encoder,
    lines: Iterable[str],
    *,
    bos: int,
    eos: int,
    pad: int,
    batch_tokens: int,
    longest: int = 0,
) -> list[LanguageBatch]:
    """Lines for evaluation: every line by itself from ``bos`` on, right-padded with its likes.

    Args:
        longest: a line with more inputs than this (a Transformer's window) is scored in pieces that overlap
            by half, every token once and with at least half a window before it; 0 = never cut.
    """
    pieces: list[tuple[Ids, Ids]] = []
    for line in lines:
        ids, targets = _pairs_of(pack(tokenizer, [line], bos, eos), bos)
        if not longest or len(ids) <= longest:
            pieces.append((ids, targets))
            continue
        step = longest // 2
        for start in range(0, len(ids) - longest + step, step):
            wanted = targets[start : start + longest].copy()
            wanted[: longest - step if start else 0] = IGNORE
            pieces.append((ids[start : start + longest], wanted))
    pieces.sort(key=lambda piece: len(piece[0]))
    batches: list[LanguageBatch] = []
    rows: list[tuple[Ids, Ids]] = []
    for piece in pieces:
        if rows and len(piece[0]) * (len(rows) + 1) > batch_tokens:
            batches.append(_stack(rows, pad))
            rows = []
        rows.append(piece)
    return [*batches, _stack(rows, pad)] if rows else batches


def _stack(rows: Sequence[tuple[Ids, Ids]], pad: int) -> LanguageBatch:
    width = max(len(ids) for ids, _ in rows)
    ids = np.full((len(rows), width), pad, np.int64)
    targets = np.full((len(rows), width), IGNORE, np.int64)
    for row, (one, two) in enumerate(rows):
        ids[row, : len(one)] = one
        targets[row, : len(two)] = two
    return LanguageBatch(ids, targets, np.ones(len(rows), np.bool_))
