"""HTML as units: nothing is lost, and what is no language stays out."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.kept import OBJECT
from bundle.markup import read_html, tokenize
from bundle.units import Part, Tag, Unit, _single_spaces, read_text, words_of_parts

WRITTEN = """
<b> </b> <p> </p> <a_href='x>y'> </a> <br/> <!--_c_--> <!-- --> <![ <?x?> <code> </code> <script> </script>
<p_translate=no> &lt; &amp &nbsp; &unknown; & < > ' " été le_chat 12_km a@b.fr <!DOCTYPE_html>
"""
PIECES = [*(piece.replace("_", " ") for piece in WRITTEN.split()), " ", "\n  ", "\t", "\u2028", OBJECT]
SOURCES = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


def joined(parts: list[Part]) -> str:
    return "".join(part if isinstance(part, str) else part.source for part in parts)


def texts(source: str) -> list[str]:
    return [part.text for part in read_html(source, {}) if isinstance(part, Unit)]


@given(SOURCES)
def test_the_parts_are_the_document(source: str) -> None:
    assert joined(read_html(source, {})) == source
    assert joined(read_text(source, {})) == source
    assert "".join(token.source for token in tokenize(source)) == source
    for part in (*read_html(source, {}), *read_text(source, {})):
        if isinstance(part, Unit):
            for at, character in enumerate(part.text):
                first, last = part.where((at, at + 1))
                assert source[first:last] == part.raw[at]
                assert character.isspace() == part.raw[at].isspace() or "&" in part.raw[at]


def test_a_block_is_a_unit() -> None:
    source = "<h1>Le titre</h1>\n<p>Une <b>phrase\n  coupée</b>.</p><ul><li>un<li>deux<br>trois</ul>"
    assert texts(source) == ["Le titre", "Une phrase coupée.", "un", "deux", "trois"]


def test_what_is_no_language_is_left_alone() -> None:
    for source in (
        "<script>if (a<b) x('été');</script>",
        "<style>p {color: red}</style>",
        "<pre>le chat\n  dort</pre>",
        "<p translate='no'>le <p>chat</p></p>",
        "<div class='x notranslate'>le chat</div>",
        "<!-- le chat -->",
        "<!DOCTYPE html>",
        "<?php le chat ?>",
        "12 &amp; 13",
    ):
        assert read_html(source, {}) == [source] or texts(source) == []
    [unit] = (part for part in read_html("Tapez <code>a &lt; b</code> ici", {}) if isinstance(part, Unit))
    assert unit.text == f"Tapez {OBJECT} ici"
    assert [unit.surface(each) for each in unit.kept] == ["<code>a &lt; b</code>"]


def test_entities() -> None:
    source = (
        "L&rsquo;&eacute;t&eacute; &amp; l&#39;eau&nbsp;: AT&amp;T, 10&nbsp;000&nbsp;&euro; "
        "&lt;script&gt; &foo; &"
    )
    [unit] = (part for part in read_html(source, {}) if isinstance(part, Unit))
    assert unit.text == "L’été & l'eau : AT&T, 10 000 € <script> &foo; &"
    kept = [unit.surface(each) for each in unit.kept]
    assert kept == ["&amp;", "AT&amp;T", "10&nbsp;000&nbsp;&euro;", "&lt;script&gt;", "&foo;", "&"]


def test_elements_have_partners() -> None:
    [unit] = read_html("<i>un</b> <b>deux <u>trois</b></u> <wbr> quatre</i>", {})
    assert isinstance(unit, Unit)
    pairs = [(tag.source, unit.tags[tag.partner].source) for tag in unit.tags if tag.partner is not None]
    assert pairs == [("<i>", "</i>"), ("<b>", "</b>")]
    deep = read_html("<b>" * 2000 + "le chat" + "</b>" * 2000, {})
    assert joined(deep).count("<b>") == 2000


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("<p class='the'>Où est {x} ?</p><style>the</style>", "Où est   ?"),
        ("<a href='https://the.org'>12 km</a>", ""),
    ],
)
def test_what_is_in_some_language(source: str, words: str) -> None:
    assert words_of_parts(read_html(source, {})) == words


def test_lines_and_columns_stay_apart() -> None:
    parts = read_text("un  deux\n\ntrois\tquatre   cinq \u2028six", {})
    assert [part.text for part in parts if isinstance(part, Unit)] == [
        "un deux",
        "trois",
        "quatre",
        "cinq",
        "six",
    ]
    assert [part for part in parts if isinstance(part, str)] == ["\n\n", "\t", "   ", " \u2028"]


@given(st.text("ab \t\xa0\u2009", max_size=12), st.data())
def test_runs_of_white_space_become_one_space(text: str, data: st.DataObject) -> None:
    """Of even text, too, which is not walked through: what is between two tags is one space at most."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
    tags = [Tag(at, f"<{number}>") for number, at in enumerate(places)]
    seen, raw, moved = _single_spaces(list(text), list(text), tags)
    walls = [0, *places, len(text)]
    parts = [re.sub(r"\s+", " ", text[start:end]) for start, end in pairwise(walls)]
    assert "".join(seen) == "".join(parts)
    assert len(seen) == len(raw)
    assert "".join(raw) == text
    ends = [len("".join(parts[: place + 1])) for place in range(len(tags))]
    assert moved == [Tag(at, tag.source) for at, tag in zip(ends, tags, strict=True)]
