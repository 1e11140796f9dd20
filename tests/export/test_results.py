"""The tables of docs/results.md, from scores.json alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bundle.manifest import read_manifest
from export import pack
from export.pipeline import export_run
from export.results import bundles, results
from export.scores import ANCHORS, Anchor, Score, anchored, anchors_for

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def models(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    run = make_run("language", "rnn")
    for name in ("b", "a"):
        export_run(run, folder / name)
    return folder


def page(models: Path, **scores: list[Score]) -> str:
    for folder in bundles(models):
        found = msgspec.to_builtins(scores.get(folder.name, []))
        pack.write_scores(folder, {"revision": read_manifest(folder).revision, "scores": found})
    return results(models)


def score(part: str, metric: str, value: float, **more: object) -> Score:
    name = str(more.pop("bundle", "a"))
    made = Score(
        metric=metric,
        value=value,
        set="a set",
        size=1500,
        part=part,
        command=f"python -m export.evaluate {name} --only {part}",
    )
    return msgspec.structs.replace(made, **more)


def test_bundles_come_by_name_with_their_size_and_the_sum(models: Path) -> None:
    text = page(models)
    lines = text.splitlines()
    manifest = read_manifest(models / "a")
    size = sum(record.size for record in manifest.files.values()) / 1e6
    assert lines[4].startswith("| a | language | ")
    assert lines[5].startswith("| b | language | ")
    assert f"| {size:.1f} | `{manifest.revision}` |" in lines[4]
    assert lines[6] == f"| all |  |  |  | {2 * size:.1f} |  |"
    assert text.count("## ") == 1  # no table without scores


def test_a_text_has_one_row_with_the_ngrams_beside(models: Path) -> None:
    text = page(
        models,
        a=[
            score("perplexity", "bits per character", 1.5, floor=3.1, floor_is="xz -9"),
            score("perplexity", "perplexity per token", 20.0),
            score(
                "perplexity",
                "perplexity per word",
                90.0,
                anchors=[Anchor(value=37.5, system="GPT-2 small", source="table 3", note="other text")],
            ),
            score("ngram", "bits per character", 1.9, note="8-grams of 10 tokens"),
            score("ngram", "perplexity per word", 200.0, note="8-grams of 10 tokens"),
        ],
        b=[score("perplexity", "bits per character", 2.5, bundle="b")],
    )
    assert "| a | a set | 1,500 | 1.500 | 1.900 | 3.100 | 90 | 200 | 20 | 37.5 [1] |" in text
    assert "| b | a set | 1,500 | 2.500 |  |  |  |  |  |  |" in text
    assert "- [1] GPT-2 small: table 3 (other text)" in text
    assert "- a: 8-grams of 10 tokens" in text
    assert (
        "Measured by `python -m export.evaluate NAME --only perplexity`, "
        "`python -m export.evaluate NAME --only ngram`." in text
    )


def test_translations_stand_in_one_row_greedy_and_beam(models: Path) -> None:
    text = page(
        models,
        a=[
            score(
                "bleu",
                metric,
                value,
                note=how,
                floor=2.0,
                floor_is="the source itself",
                unseen=True,
                signature="s",
            )
            for metric, how, value in (
                ("BLEU", "greedy", 30.0),
                ("chrF", "greedy", 50.0),
                ("BLEU", "beam 4", 32.0),
                ("chrF", "beam 4", 52.0),
            )
        ],
    )
    assert "BLEU greedy | BLEU beam 4 |" in text
    assert "| a | a set (not trained on) | 1,500 | 30.0 | 32.0 | 2.0 |  | 50.0 | 52.0 |  |" in text
    assert "- BLEU: `s`\n- chrF: `s`" in text


def test_every_kind_of_score_has_its_table(models: Path) -> None:
    text = page(
        models,
        a=[
            score("similarity", "Spearman's rho", 0.7123, coverage=0.951),
            score("analogies", "analogies right, %", 46.0, unit="questions", coverage=0.8),
            score("words", "next word right, %", 20.0),
            score("words", "next word among 5, %", 30.0),
            score("words", "next word among 10, %", 40.0),
            score("words", "keystrokes saved, %", 25.0),
            score("lambada", "last word right, %", 12.0),
            score("lambada", "last word right but for stop words, %", 15.0),
            score("robust", "empty answers", 2.0, note="a → "),
            score("passthrough", "unchanged, %", 80.0, note="7 → eight"),
            score("passthrough", "still there, %", 85.0),
            score("passthrough", "sane, %", 90.0),
            score("rounding", "BLEU", 31.4, exact=31.5, note="greedy"),
            score("rounding", "bits per character", 1.515, exact=1.5),
        ],
    )
    for row in (
        "| a | a set | 1,500 | 0.712 | 95.1 % |  |",
        "| a | a set | 1,500 | 46.0 % | 80.0 % |  |",
        "| a | a set | 1,500 | 20.0 | 30.0 | 40.0 | 25.0 |",
        "| a | a set | 1,500 | 12.0 | 15.0 |  |",
        "| a | empty answers | 2 of 1,500 | a → |",
        "| a | a set | 1,500 | 80 | 85 | 90 | 7 → eight |",
        "| a | a set | BLEU (greedy) | 31.5 | 31.4 | +0.10 |",
        "| a | a set | bits per character | 1.5 | 1.515 | +1.00 % |",
    ):
        assert row in text, row


def test_anchors_are_found_by_metric_set_and_languages() -> None:
    [opus] = anchors_for("BLEU", "newstest2013", ["en", "fr"])
    assert (opus.value, opus.system) == (33.2, "opus-mt-en-fr")
    assert anchors_for("BLEU", "newstest2013", ["en", "de"]) == []
    bits, other = anchored([score("", "bits per character", 1.0), score("", "BLEU", 1.0)], "en_wiki", ["en"])
    assert [anchor.value for anchor in bits.anchors] == [1.17]
    assert other.anchors == []
    assert ANCHORS.is_file()
