"""Translations respect the text, whatever the model says: tags, entities, placeholders, numbers, lines."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.decoding import Finished
from bundle.errors import InvalidRequest
from bundle.kept import find_kept
from bundle.load import open_bundle
from bundle.markup import tokenize
from bundle.stepper import Graph, Stepper
from bundle.translator import Translation, TranslationJob, TranslationOptions, Translator
from tests.bundle.documents import ENTITIES, NUMBERS, PLACEHOLDERS, WORDS, document, html, sentence

SHIPPED = Path(__file__).parents[2] / "models" / "fr-en"
HTML = TranslationOptions(format="html", beam=1)
TEXT = TranslationOptions(beam=1)
SHORT = 6  # tokens of a sentence: what is kept must not depend on the end that a translation comes to


@pytest.fixture(scope="module")
def translator() -> Translator:
    """The model that ships: small, and not to be trusted with a placeholder."""
    found = open_bundle(SHIPPED)
    assert isinstance(found, Translator)
    return found


def babble(rng: random.Random, source: str) -> str:
    """What a bad model might say: the source, shuffled, with holes, doubled, or anything at all."""
    words = source.split()
    match rng.randrange(6):
        case 0:
            rng.shuffle(words)
        case 1:
            words = [word for word in words if rng.random() < 0.7]
        case 2:
            words += rng.choices(words, k=2)
        case 3:
            junk = [*WORDS, *PLACEHOLDERS, *ENTITIES, "<", "&", "{", "\n", "\u2028", "Tom", "Boston", "<b>"]
            words = rng.choices(junk, k=rng.randint(0, 9))
        case 4:
            words = ["".join(words)]
    return " ".join(words)


def drive(
    translator: Translator, job: TranslationJob, say: Callable[[str], str], rng: random.Random
) -> Translation:
    """The result of a job whose model is ``say``."""
    index = 0
    while not job.done:
        request = job.requests[index]
        count = rng.randint(1, request.n)
        for choice in range(count):
            ids = translator.tokenizer.encode(say(translator.tokenizer.decode(request.prompt.source)))
            reason = rng.choice(("stop", "length"))
            job.feed(index, Finished(index, choice, tuple(ids), -1.0 - choice, reason, count - 1 - choice))
        index += 1
    assert index == len(job.requests)
    return job.result()


def translate_all(
    translator: Translator, texts: Sequence[str], options: TranslationOptions
) -> list[Translation]:
    """Each as :meth:`Translator.translate` has it, in one batch."""
    jobs = [translator.job(text, options) for text in texts]
    decoder = translator.decoder(max_rows=256)
    asked = [0] * len(jobs)

    def ask(at: int) -> None:
        while asked[at] < len(jobs[at].requests):
            decoder.add(jobs[at].requests[asked[at]], (at, asked[at]))
            asked[at] += 1

    for at in range(len(jobs)):
        ask(at)
    while decoder.active or decoder.waiting:
        for event in decoder.step():
            assert isinstance(event.tag, tuple)
            at, index = event.tag
            jobs[at].feed(index, event)
            ask(at)
    return [job.result() for job in jobs]


class Quiet:
    """A graph that says nothing of its attention."""

    def __init__(self, graph: Graph) -> None:
        self.inputs = graph.inputs
        self.outputs = {name: spec for name, spec in graph.outputs.items() if name != "attention"}
        self.run = graph.run


def without_attention(translator: Translator) -> Translator:
    stepper = translator.stepper
    quiet = Stepper(Quiet(stepper._graph), stepper._encoder, pad=0, capacity=stepper.capacity)
    return Translator(translator.manifest, translator.tokenizer, quiet)


def tags(source: str) -> Counter[str]:
    return Counter(token.source for token in tokenize(source) if token.kind not in ("text", "entity"))


def entities(source: str) -> Counter[str]:
    """Entities, and the bare marks that may have to be written as one: ``&`` that came before a word."""
    found = Counter(token.source for token in tokenize(source) if token.kind == "entity")
    for token in tokenize(source):
        if token.kind == "text":
            found["&amp;"] += token.source.count("&")
            found["&lt;"] += token.source.count("<")
    return found


def check_html(source: str, found: str) -> None:
    assert tags(found) == tags(source)
    assert entities(found) == entities(source)
    assert found.count("\n") == source.count("\n")


def check_text(source: str, found: str) -> None:
    """Lines stand where they stood, and each has what it had."""
    lines = source.splitlines(keepends=True)
    assert len(found.splitlines()) == len(lines)
    for line, other in zip(lines, found.splitlines(keepends=True), strict=True):
        assert re.match(r"\s*", line)[0] == re.match(r"\s*", other)[0]  # type: ignore[index]
        assert bool(line.strip()) == bool(other.strip())
        wanted, kept = (Counter(each.plain for each in find_kept(text)) for text in (line, other))
        assert {plain: kept[plain] for plain in wanted} == dict(wanted)
        for mark in PLACEHOLDERS:
            assert line.count(mark) == other.count(mark)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["html", "text"]), st.integers(0, 2))
def test_whatever_the_model_says(translator: Translator, seed: int, kind: str, alternatives: int) -> None:
    rng = random.Random(seed)
    source = html(rng) if kind == "html" else document(rng)
    options = TranslationOptions(
        format="html" if kind == "html" else "text", alternatives=alternatives, alignments=True
    )
    found = drive(translator, translator.job(source, options), lambda text: babble(rng, text), rng)
    assert len({found.text, *found.alternatives}) == 1 + len(found.alternatives) <= 1 + alternatives
    for text in (found.text, *found.alternatives):
        (check_html if kind == "html" else check_text)(source, text)
    for (start, end), (first, last), weight in found.alignments:
        assert 0 <= start < end <= len(source)
        assert 0 <= first <= last <= len(found.text)
        assert 0 < weight <= 1


def test_a_model_that_says_the_same_changes_nothing(translator: Translator) -> None:
    rng = random.Random(7)
    for source in (document(rng) for _ in range(30)):
        found = drive(translator, translator.job(source, TEXT), lambda text: text, rng)
        assert found.text.split() == source.split()
        assert found.alternatives == found.alignments == []


@pytest.mark.parametrize(
    "source",
    [
        "<li>ne. 12 &unknown; 10 000 &unknown;.  </li>",
        "<p>La voiture. 12 &nbsp 13. &#8364 5.</p>",
        "<p>La voiture. 12 &<b>lt; 13</b>.</p>",
        "<p>La voiture. 12 & 13.</p>",
    ],
)
def test_what_only_looks_like_an_entity_stays_beside_numbers(translator: Translator, source: str) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        found = drive(translator, translator.job(source, HTML), partial(babble, rng), rng)
        check_html(source, found.text)
        assert found.text.count("&") == source.count("&")


def test_plain_text_is_not_escaped(translator: Translator) -> None:
    source = "Il dort  là. 12:30 <br />! &amp; 5"
    for seed in range(20):
        rng = random.Random(seed)
        found = drive(translator, translator.job(source, TEXT), partial(babble, rng), rng)
        check_text(source, found.text)
        assert "&lt;" not in found.text


def test_without_alignment_tags_go_in_proportion(opened: dict[str, Any]) -> None:
    small = without_attention(opened["fr-en"])
    rng = random.Random(5)
    for source in (
        "<p>abc <b>de</b>\n <i>f <u>g</u></i><!-- c --> ab</p>",
        "<b><i>abc</i> de</b>&nbsp;c &lt;gab&gt; <a href=x>cde</a>",
        "<div>ab<b></b> cd <img src=x> ef <code>x</code> g</div>",
    ):
        found = drive(small, small.job(source, HTML), lambda text: text, rng)
        assert found.text == source
    source = "abc <b>de</b> fg ab <i>cd</i>"
    found = drive(small, small.job(source, HTML), lambda text: "gfa" if text.startswith("abc") else text, rng)
    check_html(source, found.text)
    with pytest.raises(InvalidRequest, match="alignments are not available for this model"):
        small.job("abc", TranslationOptions(alignments=True))


def test_three_hundred_fragments_of_html(translator: Translator) -> None:
    rng = random.Random(1)
    sources = [html(rng) for _ in range(300)]
    for source, found in zip(
        sources, translate_all(translator, sources, replace(HTML, max_tokens=SHORT)), strict=True
    ):
        check_html(source, found.text)


def test_three_hundred_strings_with_placeholders(translator: Translator) -> None:
    rng = random.Random(2)
    sources = [sentence(rng, [*PLACEHOLDERS, *NUMBERS], 9) for _ in range(300)]
    for source, found in zip(
        sources, translate_all(translator, sources, replace(TEXT, max_tokens=SHORT)), strict=True
    ):
        check_text(source, found.text)


def test_fifty_documents(translator: Translator) -> None:
    rng = random.Random(3)
    sources = [document(rng) for _ in range(50)]
    for source, found in zip(
        sources, translate_all(translator, sources, replace(TEXT, max_tokens=SHORT)), strict=True
    ):
        check_text(source, found.text)


def test_numbers_are_right(translator: Translator) -> None:
    for source, number in (("Il a 25 ans.", "25"), ("Mon père a 50 ans.", "50"), ("Il est 12:30.", "12:30")):
        found = translator.translate(source).text
        assert number in found
        assert found != source


@pytest.mark.parametrize(
    ("source", "said", "right"),
    [
        ("Il a 12 chiens.", "He has 7 dogs.", "He has 12 dogs."),
        ("De 5 à 10 h.", "At 10 from 7.", "At 10 h from 5."),
        ("Il a 3,50 € et {x}.", "He has 35 and Tom.", "He has 3,50 € and {x}."),
    ],
)
def test_wrong_numbers_are_put_right(translator: Translator, source: str, said: str, right: str) -> None:
    job = translator.job(source, TEXT)
    assert drive(translator, job, lambda text: said, random.Random(1)).text == right
    assert len(job.requests) == 1


def test_numbers_of_two_sentences_stay_two(translator: Translator) -> None:
    said = {"J'en ai 10 000!": "I have 10 000", "100 % sont là.": "100 % are there"}
    job = translator.job(" ".join(said), TEXT)
    found = drive(translator, job, said.__getitem__, random.Random(1)).text
    assert found == "I have 10 000! 100 % are there"
    alone = translator.job("Il y en a dix.", TEXT)
    assert drive(translator, alone, lambda text: "There are 10", random.Random(1)).text == "There are 10."


def test_a_glossary_keeps_and_replaces(translator: Translator) -> None:
    terms = (("Kubernetes", "Kubernetes"), ("gare", "railway station"))
    source = "Je veux voir Kubernetes demain. Où est la gare ? Les gares sont là."
    found = translator.translate(source, TranslationOptions(glossary=terms)).text
    assert found.count("Kubernetes") == 1
    assert found.count("railway station") == 1
    marked = translator.translate(
        "<b>Où</b> est la gare ?", TranslationOptions(format="html", glossary=(("gare", "A&B"),))
    )
    assert marked.text.count("A&amp;B") == 1


def test_inline_tags_go_where_their_words_go(translator: Translator) -> None:
    found = translator.translate("<p>La voiture <b>rouge</b> est devant la maison.</p>", HTML).text
    assert re.fullmatch(r"<p>The <b>red</b> car .*</p>", found), found
    whole = translator.translate("<p><b>Je suis très fatigué.</b></p>", HTML).text
    assert re.fullmatch(r"<p><b>[^<]+</b></p>", whole)


def test_long_sentences_are_cut_and_whole(translator: Translator) -> None:
    most = translator.manifest.limits.prompt_tokens
    for source in ("le chat noir dort, " * 60, "mot" * 400, "{x} le chat " * 40, "a" * 900, "😀" * 300):
        job = translator.job(source)
        assert all(len(request.prompt.source) <= most for request in job.requests)
        found = drive(translator, job, lambda text: text, random.Random(1))
        assert found.text.split() == source.split()


def test_pieces_of_marked_text_are_the_whole(translator: Translator) -> None:
    source = "<p>La <i>voiture</i> a {x} ans.</p>\n<p>Merci !</p>"
    pieces = [piece.text for piece in translator._pieces(translator.job(source, HTML))]
    assert len(pieces) > 1
    assert "".join(pieces) == translator.translate(source, HTML).text


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (TranslationOptions(format="rtf"), "format"),  # type: ignore[arg-type]
        (TranslationOptions(glossary=tuple((str(n), "x") for n in range(101))), "glossary"),
        (TranslationOptions(glossary=((" ", "x"),)), "glossary"),
    ],
)
def test_wishes_that_cannot_be_met(translator: Translator, options: TranslationOptions, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translator.job("abc", options)
    assert caught.value.field == field
