"""The recipes in the repository: readable, within their sizes, and the course's examples learnt exactly."""

import json
from pathlib import Path

import pytest

from training.__main__ import main
from training.config import load_recipe
from training.generate import complete, translate
from training.models import build, count_parameters

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
TOYS = sorted((RECIPES / "toy").glob("*.toml"))
#: files of the data folder whose licence does not let weights be given away
NOT_FOR_WEIGHTS = ("wmt_news", "multi30k", "newstest", "eval_public")


def paths() -> list[Path]:
    return sorted(RECIPES.glob("*.toml")) + TOYS


@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_a_recipe_reads_and_names_its_sources(path: Path) -> None:
    recipe = load_recipe(path, expand=False)
    assert recipe.name == path.stem
    assert recipe.description
    for source in recipe.corpus.sources:
        assert source.licence
        assert source.attribution
        assert not any(name in source.path for name in NOT_FOR_WEIGHTS)
        assert source.path.startswith("${VOISIN_DATA}/") or (path.parent / source.path).is_file()


def test_the_models_that_ship_are_small() -> None:
    """44 MB in all: a clone carries them for ever. Stored as int8, a parameter is a byte."""
    size = 0
    for path in sorted(RECIPES.glob("*.toml")):
        recipe = load_recipe(path, expand=False)
        if recipe.vectors is not None:
            size += recipe.vectors.kept * (recipe.vectors.size + 10)  # a word is spelt once more
        else:
            assert recipe.model is not None
            assert recipe.kind != "vectors"
            size += count_parameters([build(recipe.kind, recipe.model, recipe.tokenizer.size)])
    assert 5e6 < size < 42e6


def test_both_directions_hold_out_the_same_sentences() -> None:
    one, two = (load_recipe(RECIPES / f"{name}.toml", expand=False) for name in ("fr-en", "en-fr"))
    assert one.languages == two.languages[::-1]
    assert one.corpus == two.corpus


@pytest.mark.parametrize("path", TOYS, ids=lambda path: path.stem)
def test_the_examples_of_the_course_are_learnt_exactly(path: Path, tmp_path: Path) -> None:
    from bundle.tokenizer import Tokenizer
    from training.checkpoint import load_model

    run = tmp_path / "run"
    assert main([str(path), "--run", str(run)]) == 0
    model, recipe = load_model(run)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    assert recipe.model is not None
    assert tokenizer.special.unk is None
    if recipe.kind == "language":
        assert tokenizer.words()[3:] == ["s", "a", "e", "m"]
        # sixteen tokens are allowed: that the answer ends after four is the model's own eos
        assert complete(model, tokenizer, ["m", "mas"], max_tokens=16) == ["asse", "se"]  # type: ignore[arg-type]
        if recipe.model.recurrent:
            assert recipe.model.embedding == 0  # one-hot
    else:
        words = [line.split("\t") for line in (path.parent / "assez.tsv").read_text("utf-8").splitlines()]
        assert ["enough", "assez"] in words
        sources, targets = [fr for _, fr in words], [en for en, _ in words]
        assert translate(model, tokenizer, sources, max_tokens=32) == targets  # type: ignore[arg-type]
    assert json.loads((run / "evaluation.json").read_text("utf-8"))["loss"] < 0.1
    corpora = json.loads((run / "corpora.json").read_text("utf-8"))
    assert [set(corpus) for corpus in corpora] == [{"name", "licence", "attribution", "sha256"}]
    assert (run / "samples.txt").read_text("utf-8").startswith(("m | asse", "assez | enough"))


def test_the_command_tells_a_mistake_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOISIN_DATA", raising=False)
    toy = str(RECIPES / "toy" / "masse-rnn.toml")
    run = ["--run", str(tmp_path / "run")]
    for arguments, complaint in [
        ([toy, "--set", "train.stepz=1", *run], "train: object contains unknown field `stepz`"),
        ([toy, "--set", "corpus.sources.0.path=none.txt", *run], "no such file"),
        ([str(RECIPES / "chars-en.toml"), *run], "the environment variable VOISIN_DATA is not set"),
        ([toy, "--set", "tokenizer.level=bpe", "--set", "tokenizer.size=20", *run], "at least 25"),
        ([str(tmp_path / "none.toml"), *run], "No such file or directory"),
    ]:
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("voisin-train: ")
        assert complaint in line


def test_a_run_is_not_overwritten_and_another_job_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy, run = str(RECIPES / "toy" / "masse-gru.toml"), ["--run", str(tmp_path), "--set", "train.steps=3"]
    assert main([toy, *run]) == 0
    capsys.readouterr()
    assert main([toy, *run]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([toy, *run, "--resume", "--set", "model.hidden=8"]) == 2
    assert "model differs from the recipe given" in capsys.readouterr().err
    assert main([toy, *run, "--resume", "--set", "train.steps=5"]) == 0
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines()[-1].startswith(b'{"step":5,')


def test_a_run_does_not_go_on_with_another_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masse.txt").write_text("masse\n" * 4, encoding="utf-8")
    toy, run = str(RECIPES / "toy" / "masse-gru.toml"), ["--run", str(tmp_path / "run")]
    steps = ["--set", f"corpus.sources.0.path={tmp_path / 'masse.txt'}", "--set", "train.steps=3"]
    assert main([toy, *run, *steps]) == 0
    (tmp_path / "masse.txt").write_text("messe\n" * 4, encoding="utf-8")
    capsys.readouterr()
    assert main([toy, *run, *steps, "--resume"]) == 2
    assert "changed" in capsys.readouterr().err
