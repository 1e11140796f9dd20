"""What comes back from a translation as it is: where it begins and ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.kept import Kept, find_kept, has_words, intact, runs_on

TEXT = st.text(alphabet="aé1 .,:%$#@{}<>/&;`-€km'\ufffc", max_size=60)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Bonjour %1$s, vous avez %d messages (%s).", ["%1$s", "%d", "%s"]),
        (
            "{name} {{ x }} ${x} #{y} %{z} {0:.2f} {% if a %}",
            ["{name}", "{{ x }}", "${x}", "#{y}", "%{z}", "{0:.2f}", "{% if a %}"],
        ),
        ("%(name)s a %-5.2f et %@ ou %%", ["%(name)s", "%-5.2f", "%@", "%%"]),
        ("a<br />b </b> <!-- c --> d", ["<br />", "</b>", "<!-- c -->"]),
        ("Voir https://ex.org/a?b=c(d), ou www.x.fr.", ["https://ex.org/a?b=c(d)", "www.x.fr"]),
        ("Écrivez à me.too+x@ex.example.org !", ["me.too+x@ex.example.org"]),
        ("Lisez exemple.fr/page et non M. Dupont.fin", ["exemple.fr/page"]),
        (
            "12 km, 3,50 €, 100 %, 12:30, 2024-05-01, 20 °C",
            ["12 km", "3,50 €", "100 %", "12:30", "2024-05-01", "20 °C"],
        ),
        ("10 000 et 1 000 000 mais 12 5", ["10 000", "1 000 000", "12", "5"]),
        ("100 % de réduction, 5 messages, le 1er mai, 21e", ["100 %", "5"]),
        (
            "`pip install x` et @bob #été $HOME &eacute;",
            ["`pip install x`", "@bob", "#été", "$HOME", "&eacute;"],
        ),
        ("😀 ici 👩‍🚀", ["😀", "👩‍🚀"]),
        ("rien du tout, l'été", []),
    ],
)
def test_what_is_kept(text: str, kept: list[str]) -> None:
    found = [each.plain for each in find_kept(text)]
    assert found == kept


def test_a_glossary_comes_first() -> None:
    terms = {"Voisin": "Voisin", "gare": "station", "gare du Nord": "gare du Nord", "10": "ten"}
    found = find_kept("Voisin à la gare du Nord, gares, gare, voisin 10.", terms)
    assert [each.plain for each in found] == ["Voisin", "gare du Nord", "station", "ten"]
    assert {each.kind for each in found} == {"mark"}
    assert find_kept("C++ et C", {"C++": "C++"}) == [Kept(0, 3, "C++")]


@given(TEXT)
def test_kept_things_stand_in_order_and_apart(text: str) -> None:
    found = find_kept(text, {"a1": "b"})
    ends = [0, *(each.end for each in found)]
    assert all(each.start >= end and each.end > each.start for each, end in zip(found, ends, strict=False))
    assert all(text[each.start : each.end] in (each.plain, "a1") for each in found)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("12 cats and {x}", True),
        ("{x} 12", True),
        ("{x} {x} 12", False),
        ("{x}", False),
        ("{x} 12 3", False),
        ("{x} 12 %d", False),
        ("{x} 120", False),
        ("{x} 12,5", False),
    ],
)
def test_intact(text: str, right: bool) -> None:
    kept = find_kept("{x} a 12 chats")
    assert intact(text, kept, spelt=False) == right
    assert intact(text, kept, spelt=True) == (right or text.endswith(" 3"))


def test_words_beside_what_is_kept() -> None:
    for text, wordy in (("{abc} 12 km", False), ("{abc} a", True), ("", False), ("a {abc}", True)):
        assert has_words(text, find_kept(text)) == wordy


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("He has 10", True), ("He has 10.", False), ("10 000", True), ("12:30", True), ("en €", True),
        ("10 km", False), ("5 %", False), ("ten", False), ("", False), (" €" * 50, True),
    ],
)  # fmt: skip
def test_what_a_following_number_would_be_read_with(text: str, answer: bool) -> None:
    assert runs_on(text) is answer
