"""What is made of sentence pairs: alignment, phrase pairs, names, bare sentences."""

from pathlib import Path

import pytest

from training.alignment import align
from training.augment import Names, augmented, bare, find_names
from training.config import Augment, RecipeError, recipe_from
from training.phrase_pairs import phrase_pairs, tokens

ENGLISH = {"the": "la", "house": "maison", "table": "table", "is": "est", "big": "grande", "red": "rouge"}
NOUNS, ADJECTIVES = ("house", "table"), ("big", "red")


def sentences() -> list[tuple[str, str]]:
    """A toy language pair in which the adjective changes its place."""
    out = []
    for noun in NOUNS:
        for adjective in ADJECTIVES:
            out.append((f"The {noun} is {adjective}.", f"La {ENGLISH[noun]} est {ENGLISH[adjective]}."))
            out.append((f"The {adjective} {noun}.", f"La {ENGLISH[noun]} {ENGLISH[adjective]}."))
    return out * 3


def test_alignment_finds_the_words() -> None:
    pairs = [(a.lower().strip(".").split(), b.lower().strip(".").split()) for a, b in sentences()]
    for (one, two), links in zip(pairs, align(pairs, iterations=10), strict=True):
        for i, j in links:
            assert ENGLISH[one[i]] == two[j]
        assert len(links) >= len(one) - 1


def test_alignment_of_nothing() -> None:
    assert align([]) == []
    assert align([([], ["a"]), (["a"], [])]) == [[], []]


def test_alignment_does_not_depend_on_the_other_direction() -> None:
    pairs = [(a.split(), b.split()) for a, b in sentences()]
    flipped = align([(b, a) for a, b in pairs])
    assert align(pairs) == [sorted((i, j) for j, i in links) for links in flipped]


def test_phrase_pairs_are_words_and_their_translations() -> None:
    found = dict(phrase_pairs(sentences(), ("en", "fr"), count=100))
    for english in ("house", "table", "big", "red"):
        assert found[english] == ENGLISH[english]
    assert found["red house"] == "maison rouge"
    assert "the" not in found  # a function word by itself
    assert not any(mark in text for pair in found.items() for text in pair for mark in ".!?")
    assert list(found)[:4] != sorted(found)[:4]  # the most frequent first


def test_elisions_stand_alone() -> None:
    assert tokens("L'eau d’Anne n'est-elle pas aujourd'hui ?") == [
        "L'", "eau", "d'", "Anne", "n'", "est-elle", "pas", "aujourd'hui", "?",
    ]  # fmt: skip
    assert tokens("I don't know, it's O'Brien's.") == ["I", "don't", "know", ",", "it's", "O'Brien's", "."]


def test_names_are_what_is_never_in_lower_case() -> None:
    lines = [
        "here Marlow met Anna Karenina and saw London",
        "a new york is not in New York",
        "to Marlow, again",
    ]
    assert find_names(lines, ["London"]) == Names(["Marlow"], ["Anna Karenina"])


@pytest.mark.parametrize(
    ("pair", "lower", "expected"),
    [
        (("Il dort.", "He sleeps."), False, ("Il dort", "He sleeps")),
        (("Il dort.", "He sleeps."), True, ("il dort", "he sleeps")),
        (("Dort-il ?", "Does he sleep?"), True, ("dort-il", "does he sleep")),
        (("Je dors !", "I sleep!"), True, ("Je dors", "I sleep")),
        (("Tom dort.", "Tom sleeps."), True, ("Tom dort", "Tom sleeps")),
        (("À table", "Dinner!"), False, ("À table", "Dinner!")),
        (("!", "?"), False, ("!", "?")),
    ],
)
def test_bare_sentences(pair: tuple[str, str], lower: bool, expected: tuple[str, str]) -> None:
    assert bare(pair, lower=lower) == expected


def test_words_gain_a_capital_now_and_then() -> None:
    pairs = [
        ("hello", "bonjour"),
        ("Hello.", "Bonjour."),
        ("of Anna", "d'Anna"),
        ("english", "Anglais"),
    ] * 200
    found = list(augmented(pairs, Augment(capitals=0.5), phrases=[], names=Names([], []), seed=(0, 0)))
    assert len(found) == len(pairs)
    raised = [pair for pair in found if pair not in pairs]
    assert set(raised) == {("Hello", "Bonjour"), ("Of Anna", "D'Anna")}
    assert 120 < len(raised) < 280


def test_names_and_numbers_are_exchanged_on_both_sides() -> None:
    names = Names(["Bram"], ["Ida"])
    pairs = [("Je pense que Tom a 3 ans.", "I think Tom is 3 years old.")] * 60
    found = set(augmented(pairs, Augment(substitute=0.9), phrases=[], names=names, seed=(1, 0)))
    assert pairs[0] in found
    assert ("Je pense que Bram a 3 ans.", "I think Bram is 3 years old.") in found
    for french, english in found:
        assert ("Bram" in french) == ("Bram" in english)
        assert [c for c in french if c.isdigit()] == [c for c in english if c.isdigit()]
    pairs = [("C'est d'Eve.", "It is by Eve.")] * 40
    found = set(augmented(pairs, Augment(substitute=0.9), phrases=[], names=names, seed=(1, 0)))
    assert found == {pairs[0], ("C'est d'Ida.", "It is by Ida.")}  # no `d'Bram`


def test_phrases_and_copies_come_between() -> None:
    pairs = [(f"phrase {'x' * n} ici.", f"sentence {'y' * n} here.") for n in range(400)]
    wishes = Augment(phrases_rate=0.25, copies=0.1)
    names = Names(["Bram"], [])
    found = list(augmented(pairs, wishes, phrases=[("maison", "house")], names=names, seed=(1, 0)))
    assert [pair for pair in found if pair in set(pairs)] == pairs
    phrases = [pair for pair in found if pair in (("maison", "house"), ("Maison", "House"))]
    copies = [one for one, two in found if one == two]
    assert 60 < len(phrases) < 140
    assert 20 < len(copies) < 70
    assert all(copy == "Bram" or copy.isdigit() for copy in copies)
    assert len(found) == len(pairs) + len(phrases) + len(copies)
    again = list(augmented(pairs, wishes, phrases=[("maison", "house")], names=names, seed=(1, 0)))
    assert again == found
    assert list(augmented(pairs, wishes, phrases=[("maison", "house")], names=names, seed=(1, 1))) != found


def test_augment_is_for_translators(tmp_path: Path) -> None:
    source = {"path": "x.txt", "name": "x", "licence": "CC0", "attribution": "us"}
    tree = {"kind": "language", "name": "x", "languages": ["en"], "corpus": {"sources": [source]}}
    with pytest.raises(RecipeError, match="kind translator"):
        recipe_from(tree | {"model": {"architecture": "lstm"}, "augment": {"bare": 0.1}})
