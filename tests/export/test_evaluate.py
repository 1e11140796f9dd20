"""Scores through the exported path: checked against closed forms, gensim and sacrebleu."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from sacrebleu.metrics import BLEU

from bundle.language import Language
from bundle.load import open_bundle
from bundle.manifest import read_manifest
from bundle.translator import TranslationOptions, Translator
from export import ExportError, evaluate
from export.evaluate import BEGIN, END, main, write_results
from export.pipeline import export_run
from export.scoring import language_scores, translate, translation_scores
from training import checkpoint
from training.batching import line_batches
from training.config import encode_recipe
from training.evaluate import language_scores as torch_scores
from training.tokenizer import listed, save

MakeRun = Callable[..., Path]

LINES = ["the sea is calm.", "a", "every house, every street. " * 3, "who is there, then."]


@pytest.fixture
def language(make_run: MakeRun, tmp_path: Path) -> Callable[..., tuple[Language, Path]]:
    def make(architecture: str, scale: float | None) -> tuple[Language, Path]:
        run = make_run("language", architecture, scale=scale)
        export_run(run, tmp_path / "letters")
        model = open_bundle(tmp_path / "letters")
        assert isinstance(model, Language)
        return model, run

    return make


def test_a_model_that_knows_nothing_scores_the_alphabet(
    language: Callable[..., tuple[Language, Path]],
) -> None:
    model, _ = language("gru", 0.0)
    bits, token, word = language_scores(model, LINES, name="set", command="c")
    vocab = 29 + 4
    characters = sum(len(line) + 1 for line in LINES)
    assert bits.value == pytest.approx(math.log2(vocab), rel=1e-5)
    assert token.value == pytest.approx(vocab, rel=1e-5)
    words = sum(len(line.split()) + 1 for line in LINES)
    assert word.value == pytest.approx(vocab ** (characters / words), rel=1e-4)
    assert (bits.set, bits.size, bits.unit) == ("set", 4, "lines")
    assert token.note == f"{characters} tokens"


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_the_bundle_scores_what_torch_scores(
    language: Callable[..., tuple[Language, Path]], architecture: str
) -> None:
    model, run = language(architecture, None)
    module, _ = checkpoint.load_model(run)
    special = model.manifest.special
    assert special.bos is not None
    assert special.eos is not None
    batches = line_batches(
        model.tokenizer,
        LINES,
        bos=special.bos,
        eos=special.eos,
        pad=0,
        batch_tokens=4096,
        longest=model.manifest.limits.context_tokens,
    )
    want = torch_scores(module, batches, LINES)
    bits, token, word = language_scores(model, LINES, name="set", command="c")
    assert bits.value == pytest.approx(want["bits_per_character"], rel=1e-5)
    assert token.value == pytest.approx(want["perplexity"], rel=1e-4)
    assert word.value == pytest.approx(want["perplexity_per_word"], rel=1e-3)


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


@pytest.fixture
def english_words(vectors_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run over half of WordSim-353's words, and the words of the capitals among the analogies."""
    monkeypatch.delenv("VOISIN_DATA", raising=False)
    with Path(datapath("wordsim353.tsv")).open(encoding="utf-8") as file:
        pairs = [line.split("\t")[:2] for line in file if not line.startswith("#")]
    words = list(dict.fromkeys(word.lower() for pair in pairs for word in pair))[::2]
    words += [
        word for word in ("athens", "greece", "baghdad", "iraq", "bangkok", "thailand") if word not in words
    ]
    save(listed(words, level="word", lowercase=True), vectors_run / checkpoint.TOKENIZER)
    table = np.random.default_rng(1).normal(size=(len(words) + 4, 16)).astype(np.float32)
    table[:4] = 0
    np.save(vectors_run / "vectors.npy", table)
    return vectors_run


def test_similarity_is_gensim_s(english_words: Path, tmp_path: Path) -> None:
    export_run(english_words, tmp_path / "words")
    scores = evaluate.evaluate(tmp_path / "words", limit=10, text=None, command="c")
    by_set = {score.set: score for score in scores}
    tokens = json.loads((english_words / checkpoint.TOKENIZER).read_text())["model"]["vocab"]
    table = np.load(english_words / "vectors.npy")
    keyed = KeyedVectors(16)
    words = sorted(tokens, key=tokens.__getitem__)[4:]
    keyed.add_vectors(words, table[4:])
    _, spearman, unknown = keyed.evaluate_word_pairs(datapath("wordsim353.tsv"))
    assert by_set["wordsim353"].value == pytest.approx(spearman.statistic, abs=1e-6)
    assert by_set["wordsim353"].size == round(353 * (1 - unknown / 100))
    analogies = [score for score in scores if score.set == "questions-words"]
    assert sum(score.size for score in analogies) == 19544
    _, sections = keyed.evaluate_word_analogies(datapath("questions-words.txt"), case_insensitive=True)
    semantic = [one for one in sections[:-1] if not one["section"].startswith("gram")]
    known = sum(len(one["correct"]) + len(one["incorrect"]) for one in semantic)
    assert known > 0
    assert f"{known} with known words" in analogies[0].note
    right = sum(len(one["correct"]) for one in semantic)
    assert analogies[0].value == pytest.approx(100.0 * right / analogies[0].size)


def test_scoring_is_recorded_everywhere(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, text, results = tmp_path / "models", tmp_path / "text.txt", tmp_path / "results.md"
    export_run(make_run("language", "rnn"), models / "letters")
    revision = read_manifest(models / "letters").revision
    text.write_text("\n".join([*LINES, "", *LINES]) + "\n", encoding="utf-8")
    results.write_text(f"# Results\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    arguments = [
        "letters",
        "--models",
        str(models),
        "--text",
        str(text),
        "--limit",
        "3",
        "--results",
        str(results),
    ]
    assert main(arguments) == 0
    assert "letters: bits per character" in capsys.readouterr().out
    scores = json.loads((models / "letters" / "scores.json").read_text())
    assert scores["revision"] == revision
    assert "speed" in scores
    assert scores["scores"][0]["size"] == 3
    card = (models / "letters" / "CARD.md").read_text()
    assert "| bits per character | " in card
    assert "`python -m export.evaluate letters --limit 3 --text text.txt`" in card
    assert "Not yet measured" not in card
    page = results.read_text()
    assert "| letters (fp32, " in page
    assert "old" not in page
    assert page.startswith("# Results\n")
    assert page.endswith("\n\nAfter.\n")
    assert main(arguments) == 0
    assert results.read_text() == page
    assert open_bundle(models / "letters").manifest.revision == revision


def test_held_out_lines_are_the_recipe_s(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("language", "rnn")
    (tmp_path / "data").mkdir()
    lines = [f"line of words {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(200)]
    (tmp_path / "data" / "text.txt").write_text("\n".join([*lines, *lines]))
    _, recipe = checkpoint.load_model(run)
    made = encode_recipe(recipe).replace('path = "text"', 'path = "${VOISIN_DATA}/text.txt"')
    (run / "recipe.toml").write_text(made.replace("held_out = 0.0", "held_out = 0.2"))
    export_run(run, tmp_path / "b")
    monkeypatch.setenv("VOISIN_DATA", "")
    assert main([str(tmp_path / "b"), "--data", str(tmp_path / "data")]) == 0
    [bits, *_] = json.loads((tmp_path / "b" / "scores.json").read_text())["scores"]
    assert 20 <= bits["size"] <= 60  # each line once, though the file has it twice
    assert bits["set"] == "held-out 20.00% of lines of its corpora"


def test_pairs_have_one_reference(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_run(make_run("translator", "lstm"), tmp_path / "b")
    (tmp_path / "pairs.tsv").write_text("oui\tyes\noui\tyeah\nnon\tno\n")
    assert main([str(tmp_path / "b"), "--text", str(tmp_path / "pairs.tsv")]) == 0
    scores = json.loads((tmp_path / "b" / "scores.json").read_text())["scores"]
    assert {score["size"] for score in scores} == {2}
    assert {score["set"] for score in scores} == {"pairs.tsv"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "manifest.json"),
        (["all"], "no bundle there"),
    ],
)
def test_what_cannot_be_scored_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert main([*arguments, "--models", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1


def test_a_missing_corpus_is_told(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(make_run("language", "rnn"), tmp_path / "b")
    assert main([str(tmp_path / "b")]) == 1
    assert "text: no such file (source Made up)" in capsys.readouterr().err


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.md").write_text("nothing to see")
    with pytest.raises(ExportError, match="markers"):
        write_results(tmp_path / "results.md", tmp_path)
    assert (tmp_path / "results.md").read_text() == "nothing to see"
    write_results(tmp_path / "new.md", tmp_path)
    assert (tmp_path / "new.md").read_text().startswith(f"# Results\n\n{BEGIN}\n| bundle | metric |")
