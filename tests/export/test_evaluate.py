"""The evaluation command: which text it reads, which parts it measures, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from bundle.language import Language
from bundle.load import open_bundle
from bundle.manifest import read_manifest
from export import ExportError, pack
from export.evaluate import Options, evaluate, main
from export.pipeline import export_run
from export.results import BEGIN, END, write_results
from export.scores import Score, scores_of
from export.scoring.language import language_scores
from training import checkpoint
from training.config import encode_recipe
from training.corpus import split_of
from training.tokenizer import listed, save

MakeRun = Callable[..., Path]

LINES = ["the sea is calm.", "a", "every house, every street. " * 3, "who is there, then."]


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of this machine decides nothing."""
    monkeypatch.delenv("VOISIN_DATA", raising=False)


def held_out_run(make_run: MakeRun, path: str, *, share: float, kind: str = "language") -> Path:
    """A run whose recipe reads `path` and holds out a share of it."""
    run = make_run(kind, "rnn" if kind == "language" else "lstm")
    _, recipe = checkpoint.load_model(run)
    made = encode_recipe(recipe).replace('path = "text"', f'path = "{path}"')
    (run / "recipe.toml").write_text(made.replace("held_out = 0.0", f"held_out = {share}"))
    return run


def recorded(folder: Path) -> list[Score]:
    return scores_of(pack.read_scores(folder))


@pytest.fixture
def english_words(vectors_run: Path) -> Path:
    """A run over half of WordSim-353's words, and the words of the capitals among the analogies."""
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
    scores = evaluate(tmp_path / "words", Options())
    by_set = {score.set: score for score in scores}
    tokens = json.loads((english_words / checkpoint.TOKENIZER).read_text())["model"]["vocab"]
    table = np.load(english_words / "vectors.npy")
    keyed = KeyedVectors(16)
    words = sorted(tokens, key=tokens.__getitem__)[4:]
    keyed.add_vectors(words, table[4:])
    _, spearman, unknown = keyed.evaluate_word_pairs(datapath("wordsim353.tsv"))
    assert by_set["WordSim-353"].value == pytest.approx(spearman.statistic, abs=1e-6)
    assert by_set["WordSim-353"].size == round(353 * (1 - unknown / 100))
    assert by_set["WordSim-353"].coverage == pytest.approx(1 - unknown / 100, abs=1e-3)
    total, semantic = by_set["questions-words"], by_set["questions-words: semantic"]
    syntactic = by_set["questions-words: syntactic"]
    assert total.size == semantic.size + syntactic.size == 19544
    assert [anchor.value for anchor in total.anchors] == [53.3]
    _, sections = keyed.evaluate_word_analogies(datapath("questions-words.txt"), case_insensitive=True)
    for section in sections[:-1]:
        known = len(section["correct"]) + len(section["incorrect"])
        ours = by_set[f"questions-words: {section['section']}"]
        assert ours.coverage == pytest.approx(known / ours.size)
        assert ours.value == pytest.approx(100.0 * len(section["correct"]) / ours.size)
    assert semantic.coverage is not None
    assert semantic.coverage > 0


def test_scoring_is_recorded_everywhere(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, text, results = tmp_path / "models", tmp_path / "text.txt", tmp_path / "results.md"
    export_run(make_run("language", "rnn"), models / "letters")
    revision = read_manifest(models / "letters").revision
    text.write_text("\n".join([*LINES, "", *LINES]) + "\n", encoding="utf-8")
    results.write_text(f"# Results\n\n{BEGIN}\nstale rows\n{END}\n\nAfter.\n")
    arguments = ["letters", "--models", str(models), "--text", str(text), "--limit", "3"]
    arguments += ["--results", str(results)]
    assert main(arguments) == 0
    assert "letters: bits per character" in capsys.readouterr().out
    scores = pack.read_scores(models / "letters")
    assert scores["revision"] == revision
    assert "speed" in scores
    assert [(score.part, score.size) for score in scores_of(scores)] == [("perplexity", 3)] * 3 + [
        ("words", 2)  # one of the three lines has one word only
    ] * 4
    card = (models / "letters" / "CARD.md").read_text()
    assert "| bits per character | " in card
    assert "`python -m export.evaluate letters --only perplexity --limit 3 --text text.txt`" in card
    assert "Not yet measured" not in card
    page = results.read_text()
    assert "| letters | language | " in page
    assert "`python -m export.evaluate NAME --only words --limit 3 --text text.txt`" in page
    assert "stale rows" not in page
    assert page.startswith("# Results\n")
    assert page.endswith("\n\nAfter.\n")
    assert main(arguments) == 0
    assert results.read_text() == page
    assert open_bundle(models / "letters").manifest.revision == revision


def test_the_test_half_is_scored_and_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    lines = [f"line of words {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(200)]
    (tmp_path / "text.txt").write_text("\n".join([*lines, *lines]))
    run = held_out_run(make_run, "${VOISIN_DATA}/text.txt", share=0.2)
    export_run(run, tmp_path / "b")
    assert main([str(tmp_path / "b"), "--data", str(tmp_path), "--only", "perplexity"]) == 0
    test = [line for line in lines if split_of(line, 0.2) == "test"]
    assert any(split_of(line, 0.2) == "development" for line in lines)
    bits, *_ = recorded(tmp_path / "b")
    assert bits.size == len(test)  # each line once, though the file has it twice
    assert bits.set == "Made up, held-out test (10 %)"
    model = open_bundle(tmp_path / "b")
    assert isinstance(model, Language)
    wanted, *_ = language_scores(model, test, name="", command="")
    assert bits.value == pytest.approx(wanted.value, rel=1e-6)


def test_parts_not_measured_stay(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    export_run(held_out_run(make_run, "${VOISIN_DATA}/text.txt", share=0.0), tmp_path / "b")
    data = ["--data", str(tmp_path)]
    assert main([str(tmp_path / "b"), "--only", "words", *data]) == 0
    words = recorded(tmp_path / "b")
    assert main([str(tmp_path / "b"), "--only", "perplexity,ngram", "--ngram-tokens", "50", *data]) == 0
    scores = recorded(tmp_path / "b")
    assert list(dict.fromkeys(score.part for score in scores)) == ["perplexity", "ngram", "words"]
    assert [score for score in scores if score.part == "words"] == words
    [ngram, _] = [score for score in scores if score.part == "ngram"]
    assert ngram.command == "python -m export.evaluate b --only ngram --ngram-tokens 50"
    assert ngram.note.startswith("8-grams of ")
    # the next revision's scores are its own
    manifest = json.loads((tmp_path / "b" / "scores.json").read_text()) | {"revision": "another"}
    (tmp_path / "b" / "scores.json").write_text(json.dumps(manifest))
    assert main([str(tmp_path / "b"), "--only", "words", *data]) == 0
    assert recorded(tmp_path / "b") == words


def test_rounding_is_measured_against_the_run(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    run = make_run("language", "gru")
    export_run(run, tmp_path / "b", precision="int8")
    export_run(run, tmp_path / "exact" / "b")
    options = Options(text=tmp_path / "text.txt", only=("rounding",), against=run)
    scores = evaluate(tmp_path / "b", options)
    exact = evaluate(tmp_path / "exact" / "b", Options(text=tmp_path / "text.txt", only=("perplexity",)))
    stored = evaluate(tmp_path / "b", Options(text=tmp_path / "text.txt", only=("perplexity",)))
    assert [(score.metric, score.value) for score in scores] == [(one.metric, one.value) for one in stored]
    assert [score.exact for score in scores] == [one.value for one in exact]
    assert scores[0].exact != scores[0].value
    # a packed bundle of the run, or a folder that has one by that name, will do
    again = evaluate(
        tmp_path / "b", Options(text=options.text, only=("rounding",), against=tmp_path / "exact")
    )
    assert [score.exact for score in again] == [score.exact for score in scores]


def test_rounding_against_another_run_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    export_run(make_run("language", "gru"), tmp_path / "b", precision="int8")
    export_run(make_run("language", "lstm"), tmp_path / "other")
    text = tmp_path / "text.txt"
    with pytest.raises(ExportError, match="is not the run"):
        evaluate(tmp_path / "b", Options(text=text, only=("rounding",), against=tmp_path / "other"))
    with pytest.raises(ExportError, match="fp32 is needed"):
        evaluate(tmp_path / "b", Options(text=text, only=("rounding",), against=tmp_path / "b"))


def test_pairs_have_one_reference(make_run: MakeRun, tmp_path: Path) -> None:
    export_run(make_run("translator", "lstm"), tmp_path / "b")
    (tmp_path / "pairs.tsv").write_text("oui\tyes\noui\tyeah\nnon\tno\nnan\tno\n")
    assert main([str(tmp_path / "b"), "--text", str(tmp_path / "pairs.tsv"), "--only", "bleu"]) == 0
    scores = recorded(tmp_path / "b")
    assert {score.size for score in scores} == {2}
    assert {score.set for score in scores} == {"pairs.tsv"}


def test_every_part_of_a_translator(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = "".join(f"word number {i}\tmot et nombre {i}\n" for i in range(40))
    (tmp_path / "parallel").mkdir()
    (tmp_path / "parallel" / "tatoeba.en-fr.tsv").write_text(pairs)
    run = held_out_run(make_run, "${VOISIN_DATA}/parallel/tatoeba.en-fr.tsv", share=0.3, kind="translator")
    recipe = (run / "recipe.toml").read_text().replace('["fr", "en"]', '["en", "fr"]')
    (run / "recipe.toml").write_text(recipe)
    export_run(run, tmp_path / "b")
    assert main([str(tmp_path / "b"), "--data", str(tmp_path), "--limit", "3"]) == 0
    scores = recorded(tmp_path / "b")
    assert list(dict.fromkeys(score.part for score in scores)) == ["bleu", "robust", "passthrough"]
    [bleu] = [score for score in scores if score.metric == "BLEU" and score.note == "beam 4"]
    assert [anchor.system for anchor in bleu.anchors] == ["opus-mt-en-fr"]
    assert not bleu.unseen


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "manifest.json"),
        (["all"], "no bundle there"),
        (["all", "--limit", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_scored_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert main([*arguments, "--models", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "speed"], "--only speed: not one of analogies, bleu, "),
        (["--only", "rounding"], "needs --against"),
        (["--only", "ngram", "--ngram-order", "40"], "must be from 1 to"),
        (["--only", "perplexity", "--text", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_parts_that_cannot_be_measured_are_told(
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    export_run(held_out_run(make_run, "${VOISIN_DATA}/text.txt", share=0.0), tmp_path / "b")
    assert main([str(tmp_path / "b"), "--data", str(tmp_path), *arguments]) == 1
    assert reason in capsys.readouterr().err


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
    assert (tmp_path / "new.md").read_text().startswith(f"# Results\n\n{BEGIN}\n## The bundles")
