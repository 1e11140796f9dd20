"""Translations: nothing is lost, the best comes first, and company changes nothing."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.decoding import Decoder, Request, run
from bundle.errors import InvalidRequest
from bundle.sentences import split_text
from bundle.stepper import Prompt
from bundle.translator import TranslationOptions, Translator


@pytest.fixture
def translator(opened: dict[str, Any]) -> Translator:
    found = opened["fr-en"]
    assert isinstance(found, Translator)
    return found


def _one(translator: Translator, text: str, beam: int = 3, n: int = 1) -> list[tuple[str, float]]:
    """The n best of a sentence by the decoder itself."""
    request = Request(Prompt((1,), (*translator.tokenizer.encode(text), 2)), max_tokens=10, beam=beam, n=n)
    decoder = Decoder(translator.stepper, eos=2, pad=0, banned=(0, 1, 3))
    return [
        (
            translator.tokenizer.decode(found.ids).strip(),
            found.logprob / (len(found.ids) + (found.reason == "stop")),
        )
        for found in run(decoder, [request])[0]
    ]


def test_a_sentence_is_one_request(translator: Translator) -> None:
    assert (translator.source_language, translator.target_language) == ("fr", "en")
    [(text, score)] = _one(translator, "abc de")
    found = translator.translate("abc de")
    assert (found.text, found.alternatives) == (text, [])
    assert found.score == pytest.approx(score, abs=1e-5)
    greedy = translator.translate("abc de", TranslationOptions(beam=1))
    assert greedy.text == _one(translator, "abc de", beam=1)[0][0]


def test_blanks_and_newlines_stay(translator: Translator) -> None:
    text = "  abc de\n\n\tgab \r\nfed  "
    known = {part: translator.translate(part).text for part in ("abc de", "gab", "fed")}
    found = translator.translate(text)
    assert found.text == f"  {known['abc de']}\n\n\t{known['gab']} \r\n{known['fed']}  "
    for blank in ("", " ", "\n \n"):
        job = translator.job(blank)
        assert job.done
        assert job.requests == []
        assert (job.result().text, job.result().score, job.result().tokens) == (blank, 0.0, 0)


@pytest.mark.parametrize(
    "text", ["12:30 ?!", "...", "€ 3,50", "\U0001f600", "https://example.org/a?b=c", "me@example.org", "1\n2"]
)
def test_what_has_no_word_stays_as_it_is(translator: Translator, text: str) -> None:
    job = translator.job(text)
    assert job.done
    assert job.requests == []
    assert job.result().text == text
    mixed = translator.job(f"{text}\nabc de")
    assert len(mixed.requests) == 1
    assert translator.translate(f"{text}\nabc de").text == f"{text}\n{translator.translate('abc de').text}"


def test_long_sentences_are_cut_at_spaces(translator: Translator) -> None:
    text = "abc de fga bcd efg ab cd"  # 11 characters and eos fit
    pieces = ["abc de fga", "bcd efg ab", "cd"]
    job = translator.job(text)
    assert [translator.tokenizer.decode(request.prompt.source) for request in job.requests] == pieces
    assert translator.translate(text).text == " ".join(translator.translate(piece).text for piece in pieces)
    endless = "abcdefg" * 5
    sources = [translator.tokenizer.decode(r.prompt.source) for r in translator.job(endless).requests]
    assert "".join(sources) == endless
    assert all(len(source) <= 11 for source in sources)


def test_alternatives_are_the_next_best(translator: Translator) -> None:
    best = list(dict.fromkeys(text for text, _ in _one(translator, "abc de", beam=4, n=4)))
    found = translator.translate("abc de", TranslationOptions(beam=4, alternatives=2))
    assert [found.text, *found.alternatives] == best[:3]
    widened = translator.translate("abc de", TranslationOptions(beam=1, alternatives=3))
    assert len({widened.text, *widened.alternatives}) == len(widened.alternatives) + 1 <= 4

    several = translator.translate("abc\ngfe", TranslationOptions(beam=4, alternatives=3))
    first, second = ([text for text, _ in _one(translator, each, beam=4, n=4)] for each in ("abc", "gfe"))
    assert several.text == f"{first[0]}\n{second[0]}"
    assert len(set(several.alternatives)) == 3
    for other in several.alternatives:
        left, right = other.split("\n")
        assert (left in first and right == second[0]) or (left == first[0] and right in second)


def test_company_changes_nothing(translator: Translator) -> None:
    texts = ["abc", "de fga bcd", "g", "a b c d e f", "gfedcba"]
    together = translator.translate("\n".join(texts)).text.split("\n")
    assert together == [translator.translate(text).text for text in texts]


def test_pieces_are_the_whole_in_order(translator: Translator) -> None:
    text = " abc de\n\ngab\nfed "
    job = translator.job(text)
    pieces = "".join(piece.text for piece in translator._pieces(job))
    assert pieces == translator.translate(text).text
    assert job.cost > 0


def test_a_job_is_gone_with_its_last_event(translator: Translator) -> None:
    """Whoever drives it tags its events with what owns it; it keeps none of them."""
    job = translator.job("abc de. bcd")
    decoder, gone = translator.decoder(), weakref.ref(job)
    for index, request in enumerate(job.requests):
        decoder.add(request, (job, index))
    gc.disable()
    try:
        while decoder.active or decoder.waiting:
            for event in decoder.step():
                event.tag[0].feed(event.tag[1], event)  # type: ignore[index]
        assert job.done
        del job, event, request
        assert gone() is None
    finally:
        gc.enable()


def test_the_limit_is_told(translator: Translator) -> None:
    found = translator.translate("abc de", TranslationOptions(max_tokens=1, beam=1))
    assert found.truncated == (found.tokens == 1)
    assert translator.translate("abc de\ngfe", TranslationOptions(max_tokens=1)).tokens <= 2


@pytest.mark.parametrize(
    ("options", "field", "limit"),
    [
        (TranslationOptions(beam=0), "beam", 1),
        (TranslationOptions(beam=99), "beam", 32),
        (TranslationOptions(alternatives=-1), "alternatives", 0),
        (TranslationOptions(alternatives=17), "alternatives", 16),
        (TranslationOptions(max_tokens=0), "max_tokens", 1),
        (TranslationOptions(max_tokens=11), "max_tokens", 10),
    ],
)
def test_wishes_that_cannot_be_met(
    translator: Translator, options: TranslationOptions, field: str, limit: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translator.job("abc", options)
    assert (caught.value.field, caught.value.limit) == (field, limit)


@given(st.text(alphabet="aA.!? \n\r\t«»'()é…M", max_size=60))
def test_cutting_loses_nothing(text: str) -> None:
    parts = split_text(text)
    assert "".join(part for _, part in parts) == text
    for is_sentence, part in parts:
        assert part
        assert bool(part.strip()) == is_sentence
        assert not is_sentence or (part == part.strip() and "\n" not in part)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Où est la gare ? Merci !", ["Où est la gare ?", "Merci !"]),
        ("M. Dupont est là. Mme. Durand aussi.", ["M. Dupont est là.", "Mme. Durand aussi."]),
        ("Mr. Smith met J. Verne. They talked.", ["Mr. Smith met J. Verne.", "They talked."]),
        ("It costs 3.50 euros. 2 are left.", ["It costs 3.50 euros.", "2 are left."]),
        ("« Bonjour. » Il part. À demain… Non.", ["« Bonjour. »", "Il part.", "À demain… Non."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("see e.g. this one", ["see e.g. this one"]),
        ("one\ntwo. three", ["one", "two. three"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert [part for is_sentence, part in split_text(text) if is_sentence] == sentences
