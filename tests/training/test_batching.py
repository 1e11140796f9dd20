"""Batches hold every token once, know their place, and go on exactly from it."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.batching import (
    IGNORE,
    LanguageBatch,
    NoData,
    Position,
    Stream,
    TranslationBatch,
    bucket,
    encode_pairs,
    language_chunks,
    line_batches,
    translation_chunks,
)

PAD, BOS, EOS = 0, 1, 2
LINES = ["".join(chr(97 + (3 * i + j) % 26) for j in range(1 + i % 17)) for i in range(100)]
PAIRS = [(line, line[::-1] * (1 + len(line) % 2)) for line in LINES]


class Letters:
    """a -> 3, b -> 4, ..."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) - 94 for character in text]


def order(epoch: int) -> list[str]:
    return LINES if epoch % 2 == 0 else LINES[::-1]


def cutter(carried: bool):  # type: ignore[no-untyped-def]
    return language_chunks(Letters(), bos=BOS, eos=EOS, rows=4, sequence=8, carried=carried)


def same(one: LanguageBatch | TranslationBatch, two: LanguageBatch | TranslationBatch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("done", [0, 1, 11, 40, 77])
def test_a_stream_goes_on_from_its_position(carried: bool, done: int) -> None:
    whole = Stream(order, cutter(carried), size=30, seed=5)
    for _ in islice(whole, done):
        pass
    position = Position(**vars(whole.position))
    resumed = Stream(order, cutter(carried), size=30, seed=5, position=position)
    for expected, got in islice(zip(whole, resumed, strict=True), 50):
        assert same(expected, got)


def test_a_translation_stream_goes_on_from_its_position() -> None:
    cut = translation_chunks(
        lambda text, random: Letters().encode(text), bos=BOS, eos=EOS, pad=PAD, batch_tokens=60, max_tokens=20
    )
    whole = Stream(lambda epoch: PAIRS, cut, size=30, seed=5)
    for _ in islice(whole, 33):
        pass
    position = Position(**vars(whole.position))
    resumed = Stream(lambda epoch: PAIRS, cut, size=30, seed=5, position=position)
    for expected, got in islice(zip(whole, resumed, strict=True), 40):
        assert same(expected, got)


def test_epochs_are_shuffled_differently() -> None:
    stream = Stream(lambda epoch: LINES, cutter(False), size=1000, seed=5)
    first = [next(stream)]
    while stream.position.epoch == 0:
        batch = next(stream)
        if stream.position.epoch == 0:
            first.append(batch)
    assert not same(first[0], batch)


def test_carried_streams_are_contiguous_and_lose_nothing_but_a_tail() -> None:
    batches = cutter(True)(list(LINES), np.random.default_rng(1))
    rows = np.concatenate([batch.ids for batch in batches], axis=1)
    follow = np.concatenate([batch.targets for batch in batches], axis=1)
    text = rows.reshape(-1)
    counts = {line: LINES.count(line) for line in LINES}
    packed = sum(len(line) + 2 for line in LINES)
    assert rows.shape[0] == 4
    assert packed - 1 - text.size < 4
    inner = (follow != IGNORE)[:, :-1]
    assert np.array_equal(follow[:, :-1][inner], rows[:, 1:][inner])
    assert (follow[rows == EOS] == IGNORE).all()
    assert (text == BOS).sum() in {len(LINES), len(LINES) - 1}
    assert sum(counts.values()) == 100


def test_a_row_is_fresh_where_its_window_begins_a_line() -> None:
    batches = cutter(True)(list(LINES), np.random.default_rng(1))
    assert batches[0].fresh.all()
    for batch in batches[1:]:
        assert np.array_equal(batch.fresh, batch.ids[:, 0] == BOS)


def test_windows_have_the_length_asked_and_predict_the_next_token() -> None:
    batches = cutter(False)(list(LINES), np.random.default_rng(1))
    assert {batch.ids.shape[1] for batch in batches} == {8}
    assert all(len(batch.ids) == 4 for batch in batches[:-1])
    for batch in batches:
        real = batch.targets[:, :-1] != IGNORE
        assert np.array_equal(batch.targets[:, :-1][real], batch.ids[:, 1:][real])


@pytest.mark.parametrize("carried", [True, False])
def test_one_short_line_is_a_batch(carried: bool) -> None:
    (batch,) = cutter(carried)(["abc"], np.random.default_rng(1))
    assert batch.ids.tolist() == [[BOS, 3, 4, 5]]
    assert batch.targets.tolist() == [[3, 4, 5, EOS]]
    assert batch.tokens == 4


def test_a_position_at_the_end_of_an_epoch_is_no_empty_corpus() -> None:
    whole = Stream(lambda epoch: ["abc"], cutter(False), size=3, seed=1)
    next(whole)
    resumed = Stream(lambda epoch: ["abc"], cutter(False), size=3, seed=1, position=Position(0, 0, 1))
    assert same(next(whole), next(resumed))


@pytest.mark.parametrize("lines", [[], [""]])
def test_a_corpus_without_batches_ends_the_job(lines: list[str]) -> None:
    def nothing(lines: Sequence[str], random: np.random.Generator) -> list[LanguageBatch]:
        return []

    with pytest.raises(NoData, match="gives no batch"):
        next(Stream(lambda epoch: lines, nothing, size=3, seed=1))


def test_translations_are_padded_on_the_right_within_the_budget() -> None:
    cut = translation_chunks(
        lambda text, random: Letters().encode(text), bos=BOS, eos=EOS, pad=PAD, batch_tokens=60, max_tokens=20
    )
    batches = cut(list(PAIRS), np.random.default_rng(1))
    found = []
    for batch in batches:
        assert max(batch.source.size, batch.target.size) <= 60
        assert (batch.target[:, 0] == BOS).all()
        for source, count, target, wanted in zip(
            batch.source, batch.source_counts, batch.target, batch.targets, strict=True
        ):
            assert source[count - 1] == EOS
            assert (source[count:] == PAD).all()
            length = int((wanted != IGNORE).sum())
            assert wanted[length - 1] == EOS
            assert np.array_equal(target[1:length], wanted[: length - 1])
            assert (target[length:] == PAD).all()
            found.append((tuple(source[: count - 1]), tuple(wanted[: length - 1])))
    expected = [
        (tuple(one), tuple(two))
        for one, two in ((Letters().encode(a), Letters().encode(b)) for a, b in PAIRS)
        if len(one) <= 20 and len(two) <= 20
    ]
    assert 0 < len(expected) < len(PAIRS)
    assert sorted(found) == sorted(expected)


def test_pairs_that_are_too_long_are_left_out() -> None:
    assert len(encode_pairs(Letters().encode, [("abc", "abcd"), ("", "a"), ("ab", "ba")], 3)) == 1


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=40), st.integers(31, 90))
def test_buckets_hold_every_pair_once_within_the_budget(sizes: list[tuple[int, int]], budget: int) -> None:
    encoded = [(np.zeros(a, np.int32), np.zeros(b, np.int32)) for a, b in sizes]
    for random in (None, np.random.default_rng(1)):
        rows = bucket(encoded, budget, random)
        assert sorted(index for batch in rows for index in batch) == list(range(len(sizes)))
        for batch in rows:
            assert len(batch) * (max(max(sizes[index]) for index in batch) + 1) <= budget


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.sampled_from([0, 2, 8, 16]))
def test_evaluation_scores_every_token_once(lengths: list[int], longest: int) -> None:
    lines = ["".join(chr(97 + j % 26) for j in range(length)) for length in lengths]
    batches = line_batches(Letters(), lines, bos=BOS, eos=EOS, pad=PAD, batch_tokens=64, longest=longest)
    scored = sorted(int(t) for batch in batches for t in batch.targets.ravel() if t != IGNORE)
    assert scored == sorted(token for line in lines for token in [*Letters().encode(line), EOS])
    if longest:
        assert max(batch.ids.shape[1] for batch in batches) <= longest
    assert all(batch.fresh.all() for batch in batches)


def test_the_parts_of_a_batch_are_the_batch() -> None:
    """Whatever the number of processes. Who gets no row gets one without loss: there must be a gradient."""
    language = language_chunks(Letters(), bos=BOS, eos=EOS, rows=3, sequence=7, carried=True)
    translation = translation_chunks(
        lambda text, _: Letters().encode(text), bos=BOS, eos=EOS, pad=PAD, batch_tokens=64, max_tokens=40
    )
    random = np.random.default_rng(0)
    batches: list[LanguageBatch | TranslationBatch] = [*language(LINES, random), *translation(PAIRS, random)]
    for batch in batches:
        rows = len(batch.targets)
        parts = [batch.part(slice(row, row + 1)) for row in range(rows)]
        assert sum(part.tokens for part in parts) == batch.tokens
        for name in vars(batch):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(batch, name))
        empty = batch.part(slice(rows, rows))
        assert (len(empty.targets), empty.tokens) == (1, 0)
        assert (batch.targets[0] != IGNORE).any()  # which was left as it is
