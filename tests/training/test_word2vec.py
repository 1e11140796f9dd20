"""Word vectors from text: what is a word, what the run folder holds, and that learning happens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import Word2Vec
from msgspec.structs import replace

from bundle.errors import VoisinError
from bundle.tokenizer import Tokenizer
from training.config import Recipe, encode_recipe, recipe_from
from training.similarity import Space
from training.word2vec import CorpusTooSmall, fit, load_run, loss, spectral_map

TOPICS = {
    "sea": ["mer", "vague", "navire", "marin", "voile", "port", "poisson", "sel"],
    "bread": ["pain", "farine", "four", "boulanger", "levain", "croûte", "mie", "blé"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences on two topics that share only their little words."""
    draw = random.Random(0)
    sentences = []
    for number in range(3000):
        nouns = draw.choices(list(TOPICS.values())[number % 2], k=6)
        nouns.insert(draw.randrange(7), draw.choice(["l’été", "New York", "la nuit"]))
        sentences.append(" ".join(f"le {noun} et" for noun in nouns) + f" {number}.")
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(corpus: Path) -> Make:
    def recipe(**vectors: Any) -> Recipe:
        plain = {"size": 16, "window": 3, "epochs": 8, "min_count": 3, "subsample": 1e-2, "workers": 1}
        source = {"path": str(corpus), "name": "test", "licence": "CC0-1.0", "attribution": "us"}
        return recipe_from(
            {
                "kind": "vectors",
                "name": "words",
                "languages": ["fr"],
                "corpus": {"sources": [source], "held_out": 0.05},
                "tokenizer": {"level": "word", "lowercase": True},
                "vectors": plain | vectors,
                "train": {"samples": ["mer", "absent"]},
            }
        )

    return recipe


def run_of(recipe: Recipe, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(encode_recipe(recipe), encoding="utf-8")
    fit(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(make(phrases=1), tmp_path_factory.mktemp("runs") / "words")


def test_the_run_folder_is_whole(run: Path) -> None:
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    vectors, counts = np.load(run / "vectors.npy"), np.load(run / "counts.npy")
    assert tokenizer.level == "word"
    assert vectors.shape == (tokenizer.size, 16)
    assert vectors.dtype == np.float32
    assert not vectors[:4].any()
    assert vectors[4:].any(axis=1).all()
    assert counts.dtype == np.int64
    assert counts[:4].tolist() == [0, 0, 0, 0]
    assert (np.diff(counts[4:]) <= 0).all()  # ids follow frequency
    assert tokenizer.encode("LE Été ABSENT") == [4, tokenizer.id_of("été"), 3]
    assert tokenizer.id_of("new_york") is not None
    assert tokenizer.encode("New-York") == [tokenizer.id_of("new_york")]
    assert tokenizer.id_of("york") is None
    assert (run / "samples.txt").read_text(encoding="utf-8").startswith("mer: ")
    assert json.loads((run / "evaluation.json").read_text())["vocabulary"] == tokenizer.size - 4
    assert not list(run.glob("sentences-*"))


def test_the_loss_falls_on_held_out_text(make: Make, tmp_path: Path) -> None:
    recipe = make(negative=0, hierarchical_softmax=True)
    few = [replace(recipe.corpus.sources[0], limit=400)]  # so few that one epoch is not enough
    recipe = replace(recipe, corpus=replace(recipe.corpus, sources=few, held_out=0.4))
    run = run_of(recipe, tmp_path / "run")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in metrics] == list(range(1, 9))
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.05
    assert all(entry["words_per_second"] > 0 for entry in metrics)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"skip_gram": False, "epochs": 20},
        {"negative": 0, "hierarchical_softmax": True},
        {"skip_gram": False, "negative": 3, "hierarchical_softmax": True, "epochs": 20},
        {"subwords": True},
        {"workers": 2},
    ],
    ids=["skip-gram", "cbow", "hierarchical", "both", "subwords", "two-workers"],
)
def test_neighbours_are_of_the_same_topic(make: Make, tmp_path: Path, how: dict[str, Any]) -> None:
    words, vectors, recipe = load_run(run_of(make(**how), tmp_path / "run"))
    assert recipe.kind == "vectors"
    space = Space(words, vectors)
    for topic in TOPICS.values():
        for word in topic:
            near = {other for other, _ in space.most_similar([word], topn=5)}
            assert len(near & set(topic)) >= 4, (word, near)


def test_one_worker_gives_the_same_vectors_again(make: Make, tmp_path: Path) -> None:
    recipe = make(epochs=2)
    one, two = (run_of(recipe, tmp_path / name) for name in ("one", "two"))
    for name in ("vectors.npy", "counts.npy", "tokenizer.json", "samples.txt"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_vocabulary_is_bounded(make: Make, tmp_path: Path) -> None:
    run = run_of(make(max_vocabulary=5, epochs=1), tmp_path / "run")
    assert np.load(run / "vectors.npy").shape == (9, 16)
    with pytest.raises(CorpusTooSmall, match="no word occurs 1000000 times"):
        fit(make(min_count=1_000_000), tmp_path / "none")


def test_a_second_job_begins_anew(make: Make, tmp_path: Path) -> None:
    run = run_of(make(epochs=2), tmp_path / "run")
    run_of(make(epochs=1), run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_that_does_not_fit_together_is_refused(make: Make, tmp_path: Path) -> None:
    run = run_of(make(epochs=1), tmp_path / "run")
    np.save(run / "vectors.npy", np.zeros((3, 16), np.float32))
    with pytest.raises(VoisinError, match="vectors of shape"):
        load_run(run)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.25])
def test_the_spectrum_is_raised_to_a_power(exponent: float) -> None:
    draw = np.random.default_rng(0)
    lengths = draw.uniform(0.5, 3.0, (400, 1))
    unit = draw.normal(size=(400, 12)) * np.geomspace(5, 0.1, 12)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = unit @ spectral_map((unit * lengths).astype(np.float32), exponent)
    left, values, right = np.linalg.svd(unit, full_matrices=False)
    scale = 1.0 if exponent == 1.0 else values.mean() ** (1.0 - exponent)
    np.testing.assert_allclose(found, scale * (left * values**exponent) @ right, atol=2e-5)


def test_what_is_written_has_the_spectrum_asked_for(make: Make, tmp_path: Path) -> None:
    plain = np.load(run_of(make(), tmp_path / "plain") / "vectors.npy")
    level = np.load(run_of(make(spectrum=0.5), tmp_path / "level") / "vectors.npy")
    np.testing.assert_allclose(level, plain @ spectral_map(plain[4:], 0.5), atol=1e-5)
    scores = json.loads((tmp_path / "level" / "evaluation.json").read_text("utf-8"))
    assert scores["vocabulary"] == len(plain) - 4


def test_the_loss_is_the_formula() -> None:
    sentences = [["a", "b"]]
    for skip_gram in (0, 1):
        plain = {"vector_size": 4, "min_count": 1, "sample": 0, "sg": skip_gram, "negative": 2, "workers": 1}
        model = Word2Vec([["a", "b", "c"]] * 5, **plain)
        untrained = Word2Vec(**plain)
        untrained.build_vocab([["a", "b", "c"]])
        assert loss(untrained, sentences, 2) == pytest.approx(3 * np.log(2))  # output vectors begin at zero
        model.syn1neg[:] = 1.0
        model.wv.vectors[:] = 0.25  # u.v = 1 for every pair
        expected = np.log1p(np.exp(-1.0)) + 2 * np.log1p(np.exp(1.0))
        assert loss(model, sentences, 2) == pytest.approx(expected)
    plain = {"vector_size": 4, "min_count": 1, "sample": 0, "sg": 1, "hs": 1, "negative": 0, "workers": 1}
    plain = {"vector_size": 4, "min_count": 1, "sample": 0, "sg": 1, "hs": 1, "negative": 0, "workers": 1}
    tree = Word2Vec([["a", "b", "c", "d"]] * 5, **plain)
    tree.syn1[:] = 0.0
    assert loss(tree, [["c", "d"]], 2) == pytest.approx(2 * np.log(2))  # four words: two fair choices
    assert np.isnan(loss(tree, [["a"], ["unknown", "a"]], 2))
