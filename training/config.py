"""Recipes: what a training job is told, as strict TOML.

A recipe is read in four steps: parse, apply ``--set`` overrides, merge the model preset, convert to the
structs below. An unknown key, a wrong type or a value out of range is a :class:`RecipeError` naming its path.

Paths of corpora may hold ``${NAME}``, taken from the environment, and are relative to the recipe's folder,
but for addresses (``https://``, ``hf://``).
They are expanded only for a job that reads them (``expand=True``); the text kept in run folders, and in the
bundles made from them, names no machine.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from bundle.errors import VoisinError
from bundle.manifest import Decoding, Limits
from training.corpus import Source
from training.models.config import ModelConfig
from training.models.presets import expand as expand_preset

Kind = Literal["vectors", "language", "translator"]
Level = Literal["char", "word", "bpe"]

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]


class RecipeError(VoisinError):
    """A recipe that cannot be obeyed: where, and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason


class Corpus(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[corpus]``: the text, and what is kept away from training."""

    sources: list[Source]
    #: share of lines held out for evaluation, chosen by a hash of the line (pairs: of the English side);
    #: 0 evaluates on the training text itself, which only toys should do
    held_out: Fraction = 0.01
    #: lines (or pairs) read, shuffled and batched together; the only part of a corpus held in memory
    shuffle: Positive = 40_000


class TokenizerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tokenizer]``: what one id stands for."""

    level: Level = "bpe"
    #: ids at most, specials included; 0 = every symbol seen (char and word)
    size: Natural = 0
    lowercase: bool = False
    #: False leaves ``<unk>`` out: the alphabet is exactly what the corpus shows (char and word)
    unknown: bool = True
    #: one kind of space and one kind of apostrophe (bpe)
    plain: bool = False
    #: occurrences below which a character or word gets no id of its own
    min_count: Positive = 1
    #: lines (and of pairs each side) the tokenizer is built from; 0 = all, until they hold 40 million
    #: characters
    sample: Natural = 0


class Train(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[train]``: the loop."""

    #: optimiser steps; the job ends with the last one
    steps: Positive = 1000
    #: wall-clock budget; 0 = none. With a budget the schedule follows whichever of steps and minutes is
    #: further along, so the decay always completes, but a resumed run is no longer equal bit for bit to an
    #: unbroken one
    minutes: NotNegative = 0.0
    #: tokens of one forward pass, padding included
    batch_tokens: Positive = 4096
    #: tokens of one training window (language)
    sequence: Positive = 128
    #: sentences longer than this, on either side, are left out (translator)
    max_tokens: Positive = 100
    #: AdamW for everything, or Muon for the matrices inside the network and AdamW for the rest
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0.0)] = 2e-3
    weight_decay: NotNegative = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    #: steps of linear warm-up
    warmup: Natural = 100
    #: ``stable`` stays at the peak and falls in a straight line to zero over the last ``cooldown`` of the
    #: job: a run stopped before that can be resumed with more steps as if they had been asked for at once
    schedule: Literal["cosine", "inverse-sqrt", "constant", "stable"] = "cosine"
    #: share of the job over which ``stable`` falls
    cooldown: Fraction = 0.2
    #: the gradient's global norm is cut to this; 0 = never
    clip: NotNegative = 1.0
    label_smoothing: Fraction = 0.0
    #: probability of leaving out a merge of the bpe tokenizer, on both sides (translator)
    subword_dropout: Fraction = 0.0
    #: fp32, or bf16 autocast (weights and optimiser stay fp32); auto: bf16 where the device has units for it
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    #: forward passes whose gradients are added up before one step
    accumulate: Positive = 1
    #: 0 = only at the end
    evaluate_every: Natural = 0
    #: 0 = at evaluations only
    save_every: Natural = 0
    #: decay of the exponential moving average of the weights that is evaluated and exported; 0 = off
    average: Fraction = 0.0
    #: share of the job, its end, whose steps see the matrices rounded as int8 stores them; 0 = none
    quantization_aware: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    #: evaluations without improvement after which the job ends; 0 = never
    early_stop: Natural = 0
    #: held-out lines (or pairs) read for the loss during training; the final evaluation reads ten times as
    #: many
    evaluate_lines: Positive = 500
    #: held-out sentences translated by the final evaluation (translator)
    evaluate_translations: Positive = 500
    #: prompts (or source sentences) whose continuation goes into samples.txt
    samples: list[str] = []
    #: ``auto`` is CUDA where torch sees it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: CPU threads; 0 = torch's choice
    threads: Natural = 0


class Augment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[augment]``: what a translator sees beside its sentences; see ``training.augment``."""

    #: share of the pairs shown without final mark, half of these without the first capital too
    bare: Fraction = 0.0
    #: share of the pairs without a first capital, words and phrases mostly, that gain one on both sides
    capitals: Fraction = 0.0
    #: share of the pairs in which a name or a number that both sides have is replaced by another
    substitute: Fraction = 0.0
    #: names and numbers to copy, one after so many of the pairs
    copies: Fraction = 0.0
    #: phrase pairs, found by word alignment, that are kept; 0 = none
    phrases: Natural = 0
    #: a phrase pair follows so many of the pairs
    phrases_rate: Fraction = 0.25
    #: plain text in which names are looked for
    names: list[Source] = []


class VectorsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[vectors]``: Word2Vec (Mikolov et al. 2013) or FastText, by gensim."""

    size: Positive = 100
    window: Positive = 5
    skip_gram: bool = True
    negative: Natural = 5
    hierarchical_softmax: bool = False
    #: threshold of the subsampling of frequent words
    subsample: NotNegative = 1e-4
    epochs: Positive = 5
    #: first learning rate, falling to almost nothing; 0 = 0.025 for skip-gram and 0.05 for CBOW
    learning_rate: NotNegative = 0.0
    #: exponent of the singular values of the learnt table; below 1 the few strongest directions, which say
    #: what a text is about rather than what a word means, count for less
    spectrum: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    min_count: Positive = 5
    #: most frequent words kept; 0 = all
    max_vocabulary: Natural = 0
    #: rows that a bundle keeps, the most frequent words first; 0 = all
    kept: Natural = 0
    #: passes that join collocations into one word (``nations_unies``); 0 = none
    phrases: Natural = 0
    #: vectors for words never seen, from their character n-grams (FastText)
    subwords: bool = False
    #: characters of an n-gram, the < and > around a word included (subwords)
    min_n: Positive = 3
    max_n: Positive = 6
    #: rows of the table that n-grams are hashed into (subwords); the bundle carries all of them, ``size``
    #: numbers each. 2 million in the paper
    bucket: Positive = 200_000
    workers: Positive = 2

    def __post_init__(self) -> None:
        if self.min_n > self.max_n:
            raise ValueError(f"min_n must not be above max_n, and {self.min_n} is above {self.max_n}")


class LexiconConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which words are known: the `size` most frequent ones that occur at least `min_count` times."""

    size: Positive = 60_000
    min_count: Positive = 5


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training job."""

    kind: Kind
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    languages: Annotated[list[str], Meta(min_length=1, max_length=2)]
    seed: Natural = 1
    #: one sentence for the card
    description: str = ""
    #: sentences for the card: what the corpus leaves this model bad at
    caveats: list[str] = []
    #: whose weights training began with, name and revision; written by ``--start`` and ``export.unpack``
    start: str = ""
    corpus: Corpus
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig | None = None
    train: Train = Train()
    vectors: VectorsConfig | None = None
    augment: Augment | None = None
    # language models: completion by word keeps to the known words where this is given
    lexicon: LexiconConfig | None = None
    #: what export writes into the manifest; export chooses where absent
    limits: Limits | None = None
    decoding: Decoding | None = None


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, expand: bool = True
) -> Recipe:
    """Reads a recipe.

    Args:
        overrides: ``a.b=c`` each, ``c`` a TOML value (a bare word is a string); list elements by number.
        expand: resolve the corpora's paths (environment variables, the recipe's folder).

    Raises:
        RecipeError: unreadable, unknown key, wrong value, missing variable.
    """
    place = Path(path)
    try:
        tree = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(place, error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(place, f"not TOML: {error}") from None
    for override in overrides:
        _override(tree, override)
    recipe = recipe_from(tree, place)
    return _expanded(recipe, place) if expand else recipe


def recipe_from(tree: dict[str, Any], path: str | os.PathLike[str] = "recipe") -> Recipe:
    """Converts parsed TOML, paths as written. Raises :class:`RecipeError`."""
    tree = dict(tree)
    if isinstance(tree.get("model"), dict):
        try:
            tree["model"] = expand_preset(tree["model"])
        except ValueError as error:
            raise RecipeError(path, f"model.preset: {error}") from None
    try:
        recipe = msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(path, _readable(str(error))) from None
    _check(recipe, path)
    return recipe


def encode_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every default spelled out; :func:`load_recipe` reads it back unchanged."""
    tree = _without_none(msgspec.to_builtins(recipe))
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    blocks = [[f"{key} = {_toml(value)}" for key, value in plain.items()]]
    for key, table in tree.items():
        if isinstance(table, dict):
            blocks.append([f"[{key}]", *(f"{name} = {_toml(value)}" for name, value in table.items())])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _check(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """What one field alone cannot say."""
    if recipe.kind == "vectors":
        if recipe.vectors is None:
            raise RecipeError(path, "[vectors] is missing: a recipe of kind vectors needs it")
        if recipe.tokenizer.level != "word":
            raise RecipeError(path, "tokenizer.level must be word for kind vectors")
    elif recipe.model is None:
        raise RecipeError(path, f"[model] is missing: a recipe of kind {recipe.kind} needs it")
    _check_tables(recipe, path)
    if recipe.kind == "translator":
        if len(recipe.languages) != 2:
            raise RecipeError(path, "languages must be [source, target] for kind translator")
    elif len(recipe.languages) != 1:
        raise RecipeError(path, f"languages must name one language for kind {recipe.kind}")
    if not recipe.corpus.sources:
        raise RecipeError(path, "corpus.sources is empty")
    for number, source in enumerate(recipe.corpus.sources):
        if recipe.kind == "translator" and not set(recipe.languages) <= set(source.languages):
            raise RecipeError(
                path,
                f"corpus.sources[{number}].columns must hold the recipe's languages {recipe.languages} "
                "(of jsonl and parquet: fields)",
            )


def _check_tables(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """Tables that one kind of model alone has a use for."""
    for table, kind in (("augment", "translator"), ("lexicon", "language")):
        if getattr(recipe, table) is not None and recipe.kind != kind:
            raise RecipeError(path, f"[{table}] is for recipes of kind {kind}")


_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def _expanded(recipe: Recipe, path: Path) -> Recipe:
    sources = []
    for number, source in enumerate(recipe.corpus.sources):

        def value(match: re.Match[str], number: int = number) -> str:
            name = match.group(1)
            if not os.environ.get(name):
                raise RecipeError(
                    path, f"corpus.sources[{number}].path: the environment variable {name} is not set"
                )
            return os.environ[name]

        resolved = _VARIABLE.sub(value, source.path)
        if "://" not in resolved:
            resolved = str(path.parent / resolved)
        try:
            sources.append(msgspec.structs.replace(source, path=resolved))
        except ValueError as error:
            raise RecipeError(path, f"corpus.sources[{number}]: {error}") from None
    corpus = msgspec.structs.replace(recipe.corpus, sources=sources)
    return msgspec.structs.replace(recipe, corpus=corpus)


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise RecipeError(f"--set {override}", "must be of the form table.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word, which a shell makes hard to quote
    node: Any = tree
    for part in parts[:-1]:
        node = _child(node, part, override)
    _assign(node, parts[-1], value, override)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    return node[_index(node, part, override)]


def _assign(node: Any, part: str, value: Any, override: str) -> None:
    if isinstance(node, dict):
        node[part] = value
    else:
        node[_index(node, part, override)] = value


def _index(node: Any, part: str, override: str) -> int:
    if not isinstance(node, list):
        raise RecipeError(f"--set {override}", f"{part}: nothing can be set inside a plain value")
    if not part.isdecimal() or int(part) >= len(node):
        raise RecipeError(f"--set {override}", f"{part}: the list has the elements 0 to {len(node) - 1}")
    return int(part)


def _readable(message: str) -> str:
    """msgspec's words, the place first: ``train: object contains unknown field `stepz```."""
    text, separator, place = message.partition(" - at `")
    if not separator:
        return text
    return f"{place.rstrip('`').removeprefix('$').lstrip('.')}: {text[0].lower()}{text[1:]}"


def _without_none(value: Any) -> Any:
    """TOML has no null: absent says the same."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        if any(isinstance(item, dict) for item in value):
            return "[\n" + "".join(f"    {_toml(item)},\n" for item in value) + "]"
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # TOML's booleans, numbers and basic strings are JSON's; 1e-05 and 1.0 read back as the same float
    return msgspec.json.encode(value).decode()
