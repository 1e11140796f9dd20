"""Scores of translators: checked against sacrebleu, and against answers one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from export import ExportError
from export.pipeline import export_run
from export.scoring.robust import (
    passthrough_scores,
    passthrough_texts,
    rambles,
    robust_scores,
    sane,
    short_inputs,
    stutters,
)
from export.scoring.translation import translate, translation_scores

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def translator(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Translator:
    folder = tmp_path_factory.mktemp("models") / "fr-en"
    export_run(make_run("translator", "transformer"), folder)
    model = open_bundle(folder)
    assert isinstance(model, Translator)
    return model


def test_translations_in_a_batch_are_those_of_users(translator: Translator) -> None:
    texts = ["bonjour", "le chat", "a", "la mer et la maison"]
    for beam in (1, 4):
        alone = [translator.translate(text, TranslationOptions(beam=beam)).text for text in texts]
        assert translate(translator, texts, beam=beam) == alone


def test_bleu_is_sacrebleu_s(translator: Translator) -> None:
    pairs = [
        ("bonjour", "hello there, my dear friend."),
        ("le chat est la", "the cat is there, in the house."),
    ]
    scores = translation_scores(translator, pairs, name="set", command="c")
    assert [(score.metric, score.note) for score in scores] == [
        ("BLEU", "greedy"),
        ("chrF", "greedy"),
        ("BLEU", "beam 4"),
        ("chrF", "beam 4"),
    ]
    bleu = BLEU()
    references = [[target for _, target in pairs]]
    hypotheses = translate(translator, [source for source, _ in pairs], beam=4)
    assert scores[2].value == pytest.approx(bleu.corpus_score(hypotheses, references).score)
    assert scores[2].signature == str(bleu.get_signature())
    assert scores[2].floor == pytest.approx(
        bleu.corpus_score([source for source, _ in pairs], references).score
    )


def test_a_sentence_beyond_the_limit_is_scored_all_the_same(translator: Translator) -> None:
    assert len(translate(translator, ["a" * 500, "b"], beam=1)) == 2


@pytest.mark.parametrize(
    ("source", "answer", "wrong"),
    [
        ("oui", "yes yes yes", True),
        ("oui", "Yes, yes, YES!", True),
        ("oui", "yes yes", False),
        ("oui oui oui", "yes yes yes", False),
        ("a b", "c d c d c d", False),
    ],
)
def test_stuttering(source: str, answer: str, wrong: bool) -> None:
    assert stutters(source, answer) is wrong


@pytest.mark.parametrize(
    ("source", "answer", "wrong"),
    [
        ("oui", "yes it is so", False),
        ("oui", "yes it is so indeed", True),
        ("aujourd'hui", "as of to day so", False),
        ("", "x", False),
    ],
)
def test_rambling(source: str, answer: str, wrong: bool) -> None:
    assert rambles(source, answer) is wrong


@pytest.mark.parametrize(
    ("source", "answer", "fine"),
    [
        ("", "", True),
        ("  ", "", True),
        ("", "Hello.", False),
        ("?", "", False),
        ("12:30", "12.30", True),
        ("1984", "1948", False),
        ("Paris", "Paris", True),
        ("7", "7 7 7", False),
    ],
)
def test_sanity(source: str, answer: str, fine: bool) -> None:
    assert sane(source, answer) is fine


def test_short_inputs_are_words_of_the_text_and_always_the_same() -> None:
    sentences = [f"word{i} other{i}, l'eau grand-mère" for i in range(50)]
    inputs = short_inputs(sentences, 20)
    assert inputs == short_inputs(reversed(sentences), 20)
    assert [len(text.split()) for text in inputs] == [1] * 10 + [2] * 10
    text = " ".join(sentences).replace(",", "")
    assert all(f" {one} " in f" {text} " for one in inputs)
    assert set(short_inputs(sentences, 10)) <= set(inputs)


def test_broken_answers_are_counted(translator: Translator) -> None:
    sentences = ["le chat est la", "la mer et la maison"]
    scores = robust_scores(translator, sentences, name="set", command="c")
    inputs = short_inputs(sentences)
    answers = [translator.translate(text).text for text in inputs]
    pairs = list(zip(inputs, answers, strict=True))
    assert [score.value for score in scores] == [
        sum(stutters(*pair) for pair in pairs),
        sum(not answer.strip() for answer in answers),
        sum(rambles(*pair) for pair in pairs),
    ]
    assert {score.size for score in scores} == {len(inputs)}
    with pytest.raises(ExportError, match="no word"):
        robust_scores(translator, ["..."], name="set", command="c")


def test_what_is_no_sentence_is_compared_with_itself(translator: Translator) -> None:
    scores = passthrough_scores(translator, command="c")
    by_kind = {(score.set, score.metric): score for score in scores}
    for kind, texts in passthrough_texts().items():
        answers = [translator.translate(text).text for text in texts]
        same = sum(one == two for one, two in zip(texts, answers, strict=True))
        assert by_kind[kind, "unchanged, %"].value == pytest.approx(100 * same / len(texts))
        there = sum(one.strip().lower() in two.lower() for one, two in zip(texts, answers, strict=True))
        assert by_kind[kind, "still there, %"].value == pytest.approx(100 * there / len(texts))
        fine = sum(sane(one, two) for one, two in zip(texts, answers, strict=True))
        assert by_kind[kind, "sane, %"].value == pytest.approx(100 * fine / len(texts))
    assert by_kind["empty", "unchanged, %"].value == 100
