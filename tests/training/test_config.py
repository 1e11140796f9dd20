"""Recipes are strict, and say what is wrong with them and where."""

from pathlib import Path

import pytest

from training.config import RecipeError, encode_recipe, load_recipe

RECIPE = """
kind = "language"
name = "small"
languages = ["en"]

[corpus]
sources = [{ path = "text.txt", name = "text", licence = "CC0", attribution = "nobody" }]

[tokenizer]
level = "char"

[model]
architecture = "lstm"
hidden = 8

[train]
steps = 10
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.stepz=3", "train: object contains unknown field `stepz`"),
        ("model.hiden=3", "model: object contains unknown field `hiden`"),
        ("corpus.sources.0.licens='x'", "corpus.sources[0]: object contains unknown field `licens`"),
        ("train.steps='many'", "train.steps: expected `int`, got `str`"),
        ("train.steps=0", "train.steps: expected `int` >= 1"),
        ("train.schedule=square", "train.schedule: invalid enum value 'square'"),
        ("model.architecture=perceptron", "model.architecture: invalid enum value"),
        ("model.preset=enormous", "model.preset: unknown preset 'enormous'; there are gpt2-small"),
        ("model.hidden=0", "model: hidden must be at least 1"),
        ("kind=translator", "languages must be [source, target]"),
        ("kind=vectors", "[vectors] is missing"),
        ("languages=['en','fr']", "languages must name one language"),
        ("corpus.sources=[]", "corpus.sources is empty"),
        ("name='../evil'", "name: expected `str` matching regex"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, override: str, complaint: str) -> None:
    path = write(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [override])
    assert str(caught.value).startswith(f"{path}: {complaint}")


@pytest.mark.parametrize("override", ["train", "=3", "train..steps=3", ".a=3"])
def test_an_override_has_a_form(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match=r"of the form table\.key=value"):
        load_recipe(write(tmp_path), [override])


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("corpus.sources.1.limit=3", "the list has the elements 0 to 0"),
        ("corpus.sources.first.limit=3", "the list has the elements 0 to 0"),
        ("name.part=3", "nothing can be set inside a plain value"),
    ],
)
def test_an_override_leads_somewhere(tmp_path: Path, override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_recipe(write(tmp_path), [override])


def test_overrides_are_toml_values_and_bare_words(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path),
        [
            "train.learning_rate=1e-4",
            "train.steps = 7",
            "model.tied=true",
            "model.embedding=4",
            "model.architecture=gru",
            "train.samples=['a', 'b']",
            "corpus.sources.0.limit=5",
            "decoding.beam=4",
        ],
    )
    assert recipe.train.learning_rate == 1e-4
    assert recipe.train.steps == 7
    assert recipe.model is not None
    assert (recipe.model.architecture, recipe.model.tied) == ("gru", True)
    assert recipe.train.samples == ["a", "b"]
    assert recipe.corpus.sources[0].limit == 5
    assert recipe.decoding is not None
    assert recipe.decoding.beam == 4


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path)).corpus.sources[0].path == str(tmp_path / "text.txt")


def test_paths_take_variables_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, RECIPE.replace("text.txt", "${CORPORA}/a.txt"))
    monkeypatch.delenv("CORPORA", raising=False)
    with pytest.raises(RecipeError, match=r"corpus.sources\[0\].path: .* variable CORPORA is not set"):
        load_recipe(path)
    assert load_recipe(path, expand=False).corpus.sources[0].path == "${CORPORA}/a.txt"
    monkeypatch.setenv("CORPORA", "/somewhere")
    assert load_recipe(path).corpus.sources[0].path == "/somewhere/a.txt"


def test_a_preset_gives_way_to_the_keys_beside_it(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path, RECIPE.replace('architecture = "lstm"\nhidden = 8', 'preset = "gpt2-small"\nlayers = 2')
        )
    )
    assert recipe.model is not None
    assert (recipe.model.layers, recipe.model.hidden, recipe.model.architecture) == (2, 768, "transformer")


def test_a_translator_names_its_columns(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"corpus.sources\[0\].columns must hold .*'fr', 'en'"):
        load_recipe(write(tmp_path), ["kind=translator", "languages=['fr','en']"])


def test_the_resolved_recipe_reads_back_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path),
        [
            'train.samples=["«é»\\n", "\\"q\\"\\\\"]',
            "train.betas=[0.5, 0.9]",
            "limits={prompt_tokens=3,new_tokens=4}",
        ],
        expand=False,
    )
    again = write(tmp_path, encode_recipe(recipe))
    assert load_recipe(again, expand=False) == recipe


@pytest.mark.parametrize("text", ["kind = ", "\x00", 'kind = "language"\nkind = "vectors"'])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(write(tmp_path, text))


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none.toml: No such file"):
        load_recipe(tmp_path / "none.toml")
