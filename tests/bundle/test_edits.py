"""Places in a text and in what it became; and cutting what is too long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bundle.clauses import cut
from bundle.edits import Edits

NEW = st.text("XYZ", min_size=1, max_size=4)
STRETCHES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), NEW), max_size=4)


@given(STRETCHES, st.integers(0, 5))
def test_places_go_there_and_back(stretches: list[tuple[int, int, str]], tail: int) -> None:
    replacements: list[tuple[int, int, str]] = []
    at = 0
    for gap, size, new in stretches:
        replacements.append((at + gap, at + gap + size, new))
        at += gap + size
    text = "abcdefghij" * 4
    text = text[: at + tail]
    edits = Edits.of(text, replacements)
    result, done = "", 0
    for start, end, new in replacements:
        result += text[done:start] + new
        done = end
    assert edits.result == result + text[done:]
    inside = {place for start, end, _ in replacements for place in range(start, end)}
    for place, character in enumerate(text):
        first, last = edits.forward((place, place + 1))
        if place not in inside:
            assert edits.result[first:last] == character
            assert edits.backward((first, last)) == (place, place + 1)
        else:
            start, end, new = next(each for each in replacements if each[0] <= place < each[1])
            assert edits.result[first:last] == new
    assert edits.forward((0, len(text))) == (0, len(edits.result))


def parts(text: str, most: int, *whole: tuple[int, int]) -> list[str]:
    return [text[start:end] for start, end in cut(text, lambda part: len(part) <= most, whole)]


def test_a_cut_is_made_where_it_hurts_least() -> None:
    text = "il pleut, mais je sors quand il fait beau et je rentre"
    assert parts(text, 60) == [text]
    assert parts(text, 30) == ["il pleut, mais je sors", "quand il fait beau", "et je rentre"]
    assert parts(text, 20) == ["il pleut,", "mais je sors", "quand il fait beau", "et je rentre"]
    assert parts("abcdefgh ij", 4) == ["abcd", "efgh", "ij"]
    assert parts("ab cdefgh ij", 8, (3, 9)) == ["ab", "cdefgh", "ij"]
    assert parts("abcdefgh", 3, (0, 8)) == ["abc", "def", "gh"]


@given(st.text("ab ,.\u00a0", max_size=80), st.integers(1, 12))
def test_cutting_loses_nothing_but_blanks(text: str, most: int) -> None:
    text = text.strip()
    found = list(cut(text, lambda part: len(part) <= most))
    assert "".join("".join(text[start:end] for start, end in found).split()) == "".join(text.split())
    ends = [0, *(end for _, end in found)]
    for (start, end), before in zip(found, ends, strict=False):
        assert not text[before:start].strip()
        assert 0 < end - start <= most
