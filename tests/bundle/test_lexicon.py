"""Known words: what begins one, what is one, and which tokens keep to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.errors import BundleError
from bundle.known import KnownTokens
from bundle.lexicon import Lexicon

FRENCH = Lexicon(
    ["le", "la", "les", "maison", "maisons", "école", "été", "Paris", "aujourd'hui", "l'", "d'", "d'abord"]
)
ENGLISH = Lexicon(["cat", "cats", "don't", "well-known", "'s", "'ll", "NATO"])


@pytest.mark.parametrize(
    ("run", "rests"),
    [
        ("mai", ["mai"]),
        ("Mai", ["Mai"]),
        ("MAI", []),
        ("maisonx", []),
        ("é", ["é"]),
        ("É", ["É"]),
        ("paris", []),
        ("l'éc", ["éc"]),
        ("L'éc", ["éc"]),
        ("l'd'éc", ["éc"]),
        ("l", ["l"]),
        ("l'", ["l'", ""]),
        ("d'ab", ["d'ab"]),
        ("d'a", ["d'a", "a"]),
        ("d'é", ["é"]),
        ("x'é", []),
        ("aujourd'h", ["aujourd'h"]),
        ("'mai", ["mai"]),
        ("-", [""]),
        ("", [""]),
    ],
)
def test_what_is_left_to_spell(run: str, rests: list[str]) -> None:
    assert [rest.decode() for rest in FRENCH.rests(run.encode())] == rests


def test_what_was_typed_before_a_hyphen_is_not_judged() -> None:
    assert FRENCH.rests(b"franco-mai") == []
    assert FRENCH.rests(b"franco-mai", len("franco-")) == [b"mai"]
    assert FRENCH.rests(b"franco-xyz", len("franco-")) == []


@pytest.mark.parametrize(
    ("word", "known"),
    [("cat", 1), ("Cat", 1), ("cat's", 1), ("Cats'll", 1), ("cat'", 0), ("don't", 1), ("don't's", 1),
     ("dog's", 0),
     ("well-known", 1), ("well", 0), ("NATO", 1), ("nato", 0), ("'s", 0), ("", 0)],
)  # fmt: skip
def test_what_is_a_word(word: str, known: bool) -> None:
    assert ENGLISH.is_word(word.encode()) == known
    assert ENGLISH.begins(word.encode()) or not known


def test_a_file_is_read_and_a_bad_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("été\nle\n", encoding="utf-8")
    assert Lexicon.load(path).is_word("Été".encode())
    for content in (b"", b"\n\n", b"\xff\n", b"'s\n"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"words\.txt"):
            Lexicon.load(path)
    with pytest.raises(BundleError, match="cannot be read"):
        Lexicon.load(tmp_path / "none.txt")


ALPHABET = "ab'- .1é"
_PARTS = st.text(ALPHABET, min_size=1, max_size=4)
_WORDS = st.lists(st.from_regex(r"\A[abé]{1,4}'?\Z|\A'[ab]\Z|\A[ab]-[ab]\Z"), min_size=1, max_size=12)


@settings(deadline=None)
@given(
    words=_WORDS,
    tokens=st.lists(_PARTS, min_size=1, max_size=20, unique=True),
    made=st.text(ALPHABET, max_size=6),
)
def test_the_tokens_allowed_are_those_that_keep_every_word_known(
    words: list[str], tokens: list[str], made: str
) -> None:
    lexicon = Lexicon(words)
    known = KnownTokens(lexicon, [b"", *(token.encode() for token in tokens)])

    def fits(text: str) -> bool:
        """The definition, run by run: every finished one a word, the last one the beginning of one."""
        *whole, last = re.split(r"[ .]+", text)
        return all(map(known.complete, [run.encode() for run in whole])) and begins(last)

    def begins(run: str) -> bool:
        return bool(re.match(r"['-]*\d", run)) or bool(lexicon.rests(run.encode()))

    run = re.split(r"[ .]+", made)[-1]
    if not begins(run):
        return
    mask = known.after(run.encode())
    assert not mask[0]
    for id, token in enumerate(tokens, 1):
        # a quotation mark or dash begins nothing by itself, unless typed or behind a space
        if re.search(r"['-]", token) and not run.strip("'-"):
            continue
        assert bool(mask[id]) == fits(run + token), (run, token)


def test_part_of_a_character_is_part_of_a_word() -> None:
    surfaces = [b"", b"\xc3", b"\xa9", b"t", b" \xc3", b"\xe2\x80", b"\xa9t\xc3"]
    known = KnownTokens(Lexicon(["été"]), surfaces)
    assert known.after(b"").tolist() == [False, True, False, False, True, False, False]
    assert known.after(b"\xc3").tolist() == [False, False, True, False, False, False, True]


def test_a_list_of_words_has_words_alone() -> None:
    surfaces = [b"", b" ", b" la", b"la", b",", b" -", b" 1", b"1", b", la", b" la."]
    known = KnownTokens(Lexicon(["la", "las"]), surfaces)
    assert known.after(b"").tolist() == [False] + [True] * 9
    assert known.after(b"", words=True).tolist() == [False, True, True, True] + [False] * 6
    assert known.after(b"la", words=True).tolist() == [False, True, True] + [False] * 7
