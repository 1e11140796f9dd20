"""Sentence pairs out of text: real on one side, made by the other direction's bundle on the other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from export.backtranslate import back_translated, main, sentences
from export.pipeline import export_run
from training import corpus

MakeRun = Callable[..., Path]
TEXT = (
    "the sea is grey. The house is old and small.\nthe sea is grey.\nno\n\na\ttab and words. 12 13 14 15.\n"
)


@pytest.fixture
def bundle(make_run: MakeRun, tmp_path: Path) -> Path:
    run = make_run("translator", "transformer")
    export_run(run, tmp_path / "fr-en", precision="fp32")
    return tmp_path / "fr-en"


def test_sentences_are_of_the_length_asked_for_and_come_once() -> None:
    found = list(sentences(TEXT.splitlines(), "en", shortest=3, longest=6))
    assert found == ["the sea is grey.", "The house is old and small.", "a tab and words.", "12 13 14 15."]


def test_sentences_end_where_their_language_ends_them() -> None:
    line = "Voir le chap. Deux et la fin."
    assert list(sentences([line], "fr", shortest=1, longest=9)) == [line]
    assert list(sentences([line], "en", shortest=1, longest=9)) == ["Voir le chap.", "Deux et la fin."]


def test_pairs_are_what_the_bundle_says(bundle: Path) -> None:
    model = open_bundle(bundle)
    assert isinstance(model, Translator)
    texts = ["the sea", "an old house"]
    found = list(back_translated(model, texts, ratio=1e9))
    assert found == [
        (f"<bt> {model.translate(text, TranslationOptions(beam=1)).text}".strip(), text) for text in texts
    ]
    assert list(back_translated(model, ["123"])) == []  # nothing was translated


def test_the_file_is_a_corpus(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("the sea\nan old house\n", encoding="utf-8")
    arguments = [str(bundle), str(tmp_path / "text.txt"), str(tmp_path / "out.tsv")]
    arguments += ["--shortest", "2", "--ratio", "1e9"]
    assert main([*arguments, "--tag", "made:"]) == 0
    source = corpus.Source(
        path=str(tmp_path / "out.tsv"), name="x", licence="", attribution="", columns=("en", "fr")
    )
    pairs = list(corpus.pairs([source]))
    model = open_bundle(bundle)
    assert isinstance(model, Translator)
    found = back_translated(model, ["the sea", "an old house"], tag="made:", ratio=1e9)
    assert pairs == list(found)  # French to English: what is made is English, the corpora's first column
    assert len(pairs) == 2
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert main([str(tmp_path), *arguments[1:], "--force"]) == 1
