"""The repetition guard, token by token on a real tokenizer."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.repetition import RepetitionGuard
from bundle.tokenizer import Tokenizer
from training.tokenizer import train_tokenizer

TEXTS = [
    "the red car and the red house",
    "Red car, Red house",
    "a chat at the house: 1000 times",
    "bla bla",
    "ge rou rouge",
] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_tokenizer(TEXTS, path, level="bpe", size=300, translator=True)
    return Tokenizer.load(path)


def follows(tokenizer: Tokenizer, text: str, source: str = "x") -> bool:
    """Whether the last token of `text` is allowed after the others."""
    rule = RepetitionGuard(tokenizer).rule(tuple(tokenizer.encode(source)))
    *before, last = tokenizer.encode(text)
    mask = rule(before)
    return mask is None or bool(mask[last])


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("red red", True),
        ("red red red", False),
        ("Red red red", False),
        ("Red Red red", False),
        ("the red the red the", False),
        ("the red the red house", True),
        ("1000000", True),
        ("the house ... .", True),
    ],
)
def test_a_third_time_is_not_allowed(tokenizer: Tokenizer, text: str, allowed: bool) -> None:
    assert follows(tokenizer, text) is allowed


def test_what_the_source_repeats_may_be_repeated(tokenizer: Tokenizer) -> None:
    assert follows(tokenizer, "red red red", source="rouge rouge rouge")
    assert not follows(tokenizer, "red red red", source="rouge rouge")


def test_a_piece_may_come_three_times(tokenizer: Tokenizer) -> None:
    word, piece = tokenizer.encode("red")[0], next(i for i in range(300) if tokenizer.surface(i) == b"g")
    guard = RepetitionGuard(tokenizer)
    assert guard.banned((word, piece, piece)) is None
    banned = guard.banned((word, piece, piece, piece))
    assert banned is not None
    assert [tokenizer.surface(int(id)) for id in np.flatnonzero(banned)] == [b"G", b"g"]


def test_no_greedy_walk_repeats(tokenizer: Tokenizer) -> None:
    """Whatever the model wants, and it always wants the same: no words three times in a row."""
    guard = RepetitionGuard(tokenizer)
    rule = guard.rule((1,))
    words = [id for id in range(tokenizer.size) if tokenizer.surface(id) in (b" red", b" the", b" a")]
    assert len(words) == 3
    random = np.random.default_rng(0)
    for _ in range(50):
        wish = random.normal(size=tokenizer.size)
        wish[words] += 20
        ids: list[int] = []
        for _ in range(30):
            mask = rule(ids)
            ids.append(int(np.where(True if mask is None else mask, wish, -np.inf).argmax()))
        assert not repeated(tokenizer.decode(ids).split())


def repeated(words: Sequence[str]) -> bool:
    return any(words[i] == words[i + 1] == words[i + 2] for i in range(len(words) - 2))


@given(data=st.data())
def test_the_short_way_is_the_definition(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Few different tokens, so that they repeat: every unit that could be repeated is compared as a whole."""
    guard = RepetitionGuard(tokenizer)
    few = [tokenizer.encode(text)[0] for text in ("red", "Red", "the", "1")]
    few += [next(id for id in range(tokenizer.size) if tokenizer.surface(id) == b"g")]
    ids = data.draw(st.lists(st.sampled_from(few), max_size=20))
    surfaces = [tokenizer.surface(id).lower() for id in ids]
    expected = None
    for size in range(1, min(6, len(ids) // 2) + 1):
        unit = surfaces[-size:]
        times = 2 if unit[0].startswith(b" ") else 3
        if surfaces[-size * times :] == unit * times and any(
            part.isalpha() for part in map(bytes.strip, unit)
        ):
            expected = unit[0]
            break
    found = guard.banned(ids)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        same = {id for id in range(tokenizer.size) if tokenizer.surface(id).lower() == expected}
        assert same == set(np.flatnonzero(found).tolist())
