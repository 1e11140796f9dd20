"""The ablations: each runs through on generated text, and what they measure is what they say."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bundle.tokenizer import Tokenizer
from training.ablations import architectures, attention, cells, neighbours, recall, units
from training.ablations.__main__ import QUESTIONS, answer, main
from training.ablations.job import RECIPES, Job, Trained, language_of, unseen_lines
from training.ablations.report import Report, Table, markdown, markers
from training.config import RecipeError, load_recipe
from training.models import build, count_parameters
from training.tokenizer import listed, save

WORDS = ("the", "river", "of", "rome", "king", "old", "city", "was", "new", "york", "by", "a", "sea")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of a few words, as long as the longest context asks."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (" ".join(random.choice(WORDS, 40)) + f" {'xyz'[at % 3] * (1 + at % 7)}." for at in range(400))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    with path.open("w", encoding="utf-8") as file:
        for number in range(600):
            words = random.choice(WORDS, 1 + number % 15)
            file.write(f"{' '.join(words)}\t{' '.join(words[::-1])}\n")
    return path


def small(source: Path, *more: str) -> list[str]:
    """Overrides that make every training a matter of moments, on a text of our own."""
    return [
        f"corpus.sources.0.path={source}",
        "corpus.sources.0.limit=0",
        "corpus.held_out=0.3",
        "train.steps=4",
        "train.minutes=0.0",
        "train.evaluate_lines=5",
        *more,
    ]


def widths(name: str, module: object, vocabulary: int) -> dict[str, int]:
    counts = {}
    for side, changes in module.SIDES.items():  # type: ignore[attr-defined]
        recipe = load_recipe(RECIPES / f"{name}.toml", changes, expand=False)
        assert recipe.model is not None
        assert recipe.kind != "vectors"
        size = recipe.tokenizer.size or vocabulary
        counts[side] = count_parameters([build(recipe.kind, recipe.model, size)])
    return counts


@pytest.mark.parametrize(
    ("name", "module", "vocabulary"),
    [
        ("cells", cells, 0),
        ("recall", recall, 3 + len(recall.LETTERS) + 3),
        ("attention", attention, 0),
        ("architectures", architectures, 0),
        ("units", units, 0),
    ],
)
def test_the_sides_have_equal_parameters(name: str, module: object, vocabulary: int) -> None:
    counts = widths(name, module, vocabulary)
    assert max(counts.values()) <= 1.02 * min(counts.values())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_names_its_question_and_its_sources(path: Path) -> None:
    recipe = load_recipe(path, expand=False)
    assert recipe.name == path.stem
    assert path.stem in QUESTIONS
    assert recipe.corpus.held_out > 0
    for source in recipe.corpus.sources:
        assert source.path.startswith("${VOISIN_DATA}/") or source.name == "generated"
        assert source.licence
        assert source.attribution


def test_three_cells_on_one_text(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "POSITIONS", 20)
    monkeypatch.setattr(cells, "LINES", 10)
    report = answer("cells", tmp_path, small(text, "tokenizer.sample=0"))
    scores, contexts = report.tables
    assert [row[0] for row in scores.rows] == ["rnn", "gru", "lstm"]
    assert len({row[2] for row in scores.rows}) == 1  # the same tokens
    assert [row[0] for row in contexts.rows] == list(cells.CONTEXTS)
    assert json.loads((tmp_path / "cells.json").read_text("utf-8")) == msgspec.to_builtins(report)

    # the same command again trains nothing again and finds the same
    assert answer("cells", tmp_path, small(text, "tokenizer.sample=0")) == report
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        answer("cells", tmp_path, small(text, "tokenizer.sample=0", "train.steps=5"))


def test_the_context_curve_is_the_loss_on_what_is_left_of_the_text(text: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, small(text, "tokenizer.sample=0"))
    trained = job.train(job.recipe("cells", "model.hidden=16"), "side")
    (line,) = unseen_lines(trained.recipe, 1)
    ids = torch.tensor(trained.tokenizer.encode(line))
    longest = len(ids) - 1  # one place only: the last character
    found = cells.context_losses(trained, [line], (3, longest), 10)
    with torch.inference_mode():
        for n, bits in zip((3, longest), found, strict=True):
            logits, _ = language_of(trained)(ids[None, -n - 1 : -1])
            assert bits == pytest.approx(
                -logits[0, -1].log_softmax(-1)[ids[-1]].item() / math.log(2), rel=1e-5
            )
    with pytest.raises(ValueError, match="no line has more than"):
        cells.context_losses(trained, [line], (longest + 1,), 10)


def test_recall_asks_for_the_letter_that_stood_n_characters_before(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for gap in recall.GAPS:
        line = recall.line(gap, random)
        assert len(line) == gap + 1
        assert line[-1] == line[0]
        assert line[-2] == "?" if gap > 2 else line[1] == "?"
        assert set(line[1:-2]) <= set("01")


class Oracle(torch.nn.Module):
    """Knows the second token of each row, the first letter; or answers the same to everything."""

    def __init__(self, size: int, knows: bool) -> None:
        super().__init__()
        self.size, self.knows = size, knows

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        first = ids[:, 1] if self.knows else ids[:1, 1].expand(len(ids))
        logits = torch.nn.functional.one_hot(first, self.size).float()
        return logits[:, None].expand(-1, ids.shape[1], -1), {}


@pytest.mark.parametrize("knows", [True, False])
def test_recall_scores_memory_and_nothing_else(
    knows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall.write_text(tmp_path / "recall.txt", 300, 16)
    job = Job(tmp_path, small(tmp_path / "recall.txt"))
    trained = job.train(job.recipe("recall", "model.hidden=8"), "side")
    monkeypatch.setattr(recall, "language_of", lambda t: Oracle(t.tokenizer.size, knows))
    accuracy = recall.accuracy(trained, 12, 400)
    assert accuracy == 1.0 if knows else accuracy < 0.25


def test_pairs_by_the_length_of_their_source() -> None:
    pairs = [("a b c", "1"), ("a", "2"), ("a b c", "3"), ("a b c d", "4"), ("b", "5"), ("c", "6")]
    assert attention.by_length(pairs, (1, 3), 2) == [
        [("a", "2"), ("b", "5")],
        [("a b c", "1"), ("a b c d", "4")],
    ]
    assert attention.by_length(pairs, (3, 4), 2) == [[("a b c", "1")], [("a b c d", "4")]]
    assert attention.names((1, 5, 12)) == ["1-4", "5-11", "12 and more"]


def test_attention_with_and_without(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MOST", 3)
    report = answer("attention", tmp_path, small(pairs, "tokenizer.size=300", "train.max_tokens=40"))
    sides, buckets = report.tables
    assert [row[0] for row in sides.rows] == ["with attention", "without"]
    assert sides.rows[0][2:4] == sides.rows[1][2:4]  # the same steps and target tokens
    assert [row[0] for row in buckets.rows] == ["1-4", "5-7", "8-11", "12 and more"]
    assert all(isinstance(row[1], int) and row[1] > 0 for row in buckets.rows)


def test_architectures_in_equal_time_and_at_equal_tokens(text: Path, tmp_path: Path) -> None:
    overrides = [
        f"corpus.sources.0.path={text}",
        "corpus.sources.0.limit=0",
        "tokenizer.size=300",
        "model.layers=1",
        "train.batch_tokens=256",
        "train.evaluate_lines=5",
    ]
    job = Job(tmp_path, overrides)
    paced = job.train(job.recipe("architectures", "train.minutes=0.002"), "paced")
    # the pace of a moment foretells the time of a moment, roughly
    assert 1 <= paced.steps < 100
    table = architectures.compared({"transformer": paced, "lstm": _longer(paced)}, job)
    assert [row[:2] for row in table.rows] == [
        ["transformer", "equal time"],
        ["lstm", "equal time"],
        ["lstm", "equal steps"],
    ]
    again = json.loads((tmp_path / "lstm-equal-steps" / "times.json").read_text("utf-8"))
    assert again["steps"] == paced.steps


def _longer(trained: Trained) -> Trained:
    return dataclasses.replace(trained, steps=trained.steps + 1)


def test_units_are_charged_for_every_character(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "LINES", 20)
    more = ("tokenizer.min_count=2", "tokenizer.sample=0")
    report = answer("units", tmp_path, small(text, *more))
    (table,) = report.tables
    assert len(table.rows) == 5
    letters, model, free = (row[4] for row in table.rows[2:])
    assert isinstance(letters, float)
    assert isinstance(model, float)
    assert isinstance(free, float)
    assert free <= min(letters, model)


def test_the_speller_is_a_probability() -> None:
    speller = units.Speller(["ab", "b", "bb"])

    def mass(prefix: float, depth: int) -> float:
        """Of all words of at most `depth` known letters that go on from a prefix."""
        ends = prefix * 2 ** -speller.bits("")
        steps = [2 ** (speller.bits("") - speller.bits(letter)) for letter in "ab"]
        return ends + (sum(mass(prefix * step, depth - 1) for step in steps) if depth else 0.0)

    assert 0.5 < mass(1.0, 12) <= 1.0
    # 4 b, 1 a, 3 ends and one added, and one place for all other letters
    assert speller.bits("b") == pytest.approx(-math.log2(4 / 10 * 4 / 10))
    assert speller.bits("é") > speller.bits("a") + 20


def test_spelling_is_what_the_character_model_pays_for_unknown_words(text: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, small(text, "tokenizer.sample=0"))
    prepared = tmp_path / "words.txt"
    units.write_text(job.recipe("units"), prepared)
    speller = job.train(recall.with_text(job.recipe("units", *units.SIDES["characters"]), prepared), "char")
    knows_all = job.train(recall.with_text(job.recipe("units"), prepared), "word").tokenizer
    knows_none = _tokenizer(tmp_path, ["nothing"])
    line = "the old king was a king"
    assert units.spelling_bits(speller, knows_all, line) == 0.0
    # all words unknown: the whole line and its end, as the model scores it
    whole = units.total_bits(speller, [line])
    assert units.spelling_bits(speller, knows_none, line) == pytest.approx(whole, rel=1e-4)


def _tokenizer(folder: Path, words: Sequence[str]) -> Tokenizer:
    save(listed(words, level="word"), folder / "listed.json")
    return Tokenizer.load(folder / "listed.json")


def test_neighbours_of_four_trainings(text: Path, tmp_path: Path) -> None:
    overrides = [f"corpus.sources.0.path={text}", "corpus.sources.0.limit=0", "vectors.epochs=1"]
    report = answer("neighbours", tmp_path, [*overrides, "vectors.size=8"])
    scores, near = report.tables
    assert [row[0] for row in scores.rows] == list(neighbours.SIDES)
    king = next(row for row in near.rows if row[0] == "king")
    assert all(len(str(cell).split(", ")) == neighbours.NEIGHBOURS for cell in king[1:])
    assert next(row for row in near.rows if row[0] == "guitar")[1] == "(unknown)"


#: a step of the autocast recipe, small
MOMENT = ("tokenizer.size=300", "tokenizer.sample=50", "train.batch_tokens=64", "train.sequence=32")


def test_autocast_takes_turns(text: Path, tmp_path: Path) -> None:
    report = answer("autocast", tmp_path, small(text, *MOMENT))
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["transformer", "lstm"]
    assert all(isinstance(cell, float) and cell > 0 for row in table.rows for cell in row[1:])


def test_the_command_prints_and_renews_its_part_of_a_document(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "results.md"
    begin, end = markers("autocast")
    document.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    sets = [part for one in small(text, *MOMENT) for part in ("--set", one)]
    command = ["autocast", "--runs", str(tmp_path), "--results", str(document), *sets]
    assert main(command) == 0
    report = msgspec.json.decode((tmp_path / "autocast.json").read_bytes(), type=Report)
    assert document.read_text("utf-8") == f"before\n{begin}\n{markdown(report)}\n{end}\nafter\n"
    assert markdown(report) in capsys.readouterr().out

    document.write_text("before\n", encoding="utf-8")
    assert main(command) == 0
    renewed = document.read_text("utf-8")
    assert renewed.startswith(f"before\n\n### {report.question}\n\n{begin}\n")
    assert renewed.endswith(f"\n{end}\n")

    document.write_text(f"before\n{begin}\nno end", encoding="utf-8")
    assert main(command) == 1
    assert "is not followed by" in capsys.readouterr().err
    assert document.read_text("utf-8") == f"before\n{begin}\nno end"


def test_a_table_in_markdown() -> None:
    table = Table(title="Things.", columns=["a", "b"], rows=[["x|y", 12345], [None, 1.23456]])
    report = Report(name="n", question="Q?", about="So.", command="do it", minutes=0.0, tables=[table])
    assert (
        markdown(report)
        == "So.\n\n`do it`\n\nThings.\n\n| a | b |\n| --- | --- |\n| x\\|y | 12,345 |\n|  | 1.235 |"
    )


def test_a_trained_side_tells_its_pace() -> None:
    fields = dict.fromkeys(("model", "tokenizer", "recipe"), None)
    side = Trained(**fields, parameters=1, steps=2, tokens=300, seconds=1.5)  # type: ignore[arg-type]
    assert side.speed == 200
