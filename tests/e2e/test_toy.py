"""The course's own examples, from the recipe to the answer over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from export.server import Server, serve
from export.toys import QUESTIONS, RECIPES, Toy, ask, make, recipes
from training.config import load_recipe

NAMES = [path.stem for path in recipes()]
ANSWERING = [path.stem for path in recipes() if load_recipe(path).kind in QUESTIONS]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="session")
def toys(folder: Path) -> dict[str, Toy]:
    """Every toy, trained, exported and verified."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = {path.stem: toy for path, toy in zip(recipes(), make(folder), strict=True)}
    torch.set_num_threads(threads)
    return made


@pytest.fixture(scope="session")
def server(folder: Path, toys: dict[str, Toy]) -> Iterator[Server]:
    """One service over all of them."""
    with serve(folder / "bundles") as server:
        yield server


def test_the_course_is_complete() -> None:
    shapes = {
        (recipe.kind, recipe.model.architecture) for path in recipes() if (recipe := load_recipe(path)).model
    }
    assert {("language", cell) for cell in ("rnn", "gru", "lstm", "transformer")} <= shapes
    assert {("translator", cell) for cell in ("lstm", "transformer")} <= shapes
    assert RECIPES.is_dir()


def test_the_alphabet_is_the_course_s_and_one_hot() -> None:
    for path in recipes():
        recipe = load_recipe(path)
        if recipe.kind == "language" and recipe.model is not None and recipe.model.recurrent:
            assert recipe.model.embedding == 0  # one-hot
            assert not recipe.tokenizer.unknown


@pytest.mark.parametrize("name", NAMES)
def test_exported_equals_trained(toys: dict[str, Toy], name: str) -> None:
    parity = toys[name].manifest.parity
    assert parity
    assert all(check.observed <= check.bound for check in parity.values())


@pytest.mark.parametrize("name", ANSWERING)
def test_opened_from_disk_it_answers_right(folder: Path, toys: dict[str, Toy], name: str) -> None:
    model = open_bundle(folder / "bundles" / toys[name].name)
    if isinstance(model, Translator):
        assert model.translate("assez", TranslationOptions()).text == "enough"
        assert model.translate("assez", TranslationOptions(beam=1)).text == "enough"
        return
    assert isinstance(model, Language)
    [completion] = model.complete("m", CompletionOptions())
    assert (completion.text, completion.finish_reason) == ("asse", "stop")
    assert "".join(piece.text for piece in model.stream("m", CompletionOptions())) == "asse"


@pytest.mark.parametrize("name", ANSWERING)
def test_served_it_answers_right(server: Server, toys: dict[str, Toy], name: str) -> None:
    manifest = toys[name].manifest
    assert ask(server, manifest) == QUESTIONS[manifest.kind][1]


def test_the_service_lists_every_toy(server: Server, toys: dict[str, Toy]) -> None:
    listed = str(server.get("/info"))
    assert all(toy.name in listed and toy.manifest.revision in listed for toy in toys.values())


def test_every_card_is_written(folder: Path, toys: dict[str, Toy]) -> None:
    for toy in toys.values():
        text = (folder / "bundles" / toy.name / "CARD.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {toy.name}\n")
        if toy.manifest.kind == "language":
            assert "| m | asse |" in text


def test_toy_vectors_have_neighbours(folder: Path, toys: dict[str, Toy]) -> None:
    for toy in toys.values():
        model = open_bundle(folder / "bundles" / toy.name)
        if isinstance(model, Vectors):
            assert len(model.most_similar([toy.manifest.golden[0].input[0]], topn=3)) == 3
