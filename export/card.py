"""CARD.md: what a bundle is, in plain words, for somebody who decides whether to use it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bundle.manifest import CARD, Check, Manifest
from export.pack import read_scores, replace_text
from training.config import Recipe, recipe_from

LANGUAGES = {"en": "English", "fr": "French"}
LEVELS = {"char": "character by character", "word": "word by word", "bpe": "sub-word by sub-word"}
PRECISIONS = {
    "fp32": "32-bit floats",
    "fp16": "16-bit floats, computed in 32",
    "int8": "8-bit integers with a scale for each output channel, computed in 32-bit floats",
}
CHECKS = {
    "full_vs_torch": "logits: graph against torch, largest difference",
    "stepwise_vs_full": "logits: token by token against all at once, largest difference",
    "training_vs_step": "logits: the form trained against the form served, largest difference",
    "row_vs_batch": "logits: a row alone against the same row in a batch, largest difference",
    "greedy_text_vs_torch": "greedy texts that differ from torch's, share",
    "beam_text_vs_torch": "beam search texts that differ from torch's, share",
    "greedy_text_alone_vs_batch": "greedy texts that differ alone and in a batch, share",
    "beam_text_alone_vs_batch": "beam search texts that differ alone and in a batch, share",
    "rounding": "loss by rounding the weights: logits, root mean square in standard deviations",
    "rounded_choices": "loss by rounding the weights: positions whose likeliest token changes, share",
    "rankings_vs_gensim": "ten nearest words that are not gensim's, share of queries",
    "cosines_vs_gensim": "cosines: graph against gensim, largest difference",
    "missed_of_ten": "loss by rounding the vectors: of gensim's ten nearest words, share not found",
}


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number and everything needed to get it again."""

    metric: str
    value: float
    set: str
    """Name of the test set or split."""
    size: int
    """How many lines, pairs or questions were scored."""
    unit: str = ""
    """What `size` counts."""
    command: str
    floor: float | None = None
    """What doing nothing clever scores on the same set; `floor_is` says what that is."""
    floor_is: str = ""
    signature: str = ""
    note: str = ""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How long one thing takes alone on one thread, and where that was measured."""

    milliseconds: float
    per: str
    machine: str


def scores_of(scores: Mapping[str, object]) -> list[Score]:
    """The scores recorded in `scores.json`."""
    return msgspec.convert(scores.get("scores", []), list[Score])


def write_card(folder: Path, manifest: Manifest) -> None:
    """Writes CARD.md from the manifest and `scores.json` that lie in `folder`."""
    scores = read_scores(folder)
    replace_text(folder / CARD, card(manifest, scores))


def card(manifest: Manifest, scores: Mapping[str, object]) -> str:
    """The text of CARD.md."""
    recipe = recipe_from(tomllib.loads(manifest.provenance.recipe), manifest.name)
    parts = [
        f"# {manifest.name}",
        recipe.description or purpose(manifest),
        table(("", ""), facts(manifest, recipe, scores)),
        "## Trained on",
        "\n".join(
            f"- **{corpus.name}**: {corpus.attribution}. Licence: {corpus.licence}."
            for corpus in manifest.provenance.corpora
        ),
        "## Scores",
        score_table(scores_of(scores)),
        "## What it is not good for",
        "\n".join(f"- {sentence}" for sentence in caveats(manifest, recipe)),
        "## What it answers",
        "Real answers of this bundle, checked again whenever it is opened.",
        examples(manifest),
        "## Exported equals trained",
        table(
            ("check", "bound", "observed"),
            [
                (CHECKS.get(name, name), f"{check.bound:g}", f"{check.observed:.2g}")
                for name, check in sorted(manifest.parity.items(), key=_place)
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _place(item: tuple[str, Check]) -> tuple[int, str]:
    """Checks in the order of CHECKS."""
    name, _ = item
    return list(CHECKS).index(name) if name in CHECKS else len(CHECKS), name


def purpose(manifest: Manifest) -> str:
    """One sentence, where the recipe has none."""
    names = [language(code) for code in manifest.languages]
    if manifest.kind == "vectors":
        return f"Nearest words and analogies in {names[0]}."
    if manifest.kind == "translator":
        return f"Translates {names[0]} into {names[1]}, a sentence at a time, {LEVELS[manifest.level]}."
    return f"Continues {names[0]} text, {LEVELS[manifest.level]}."


def language(code: str) -> str:
    """`fr` -> `French`; a code without a name here is its own name."""
    return LANGUAGES.get(code, code)


def facts(manifest: Manifest, recipe: Recipe, scores: Mapping[str, object]) -> list[tuple[str, str]]:
    """Rows of the first table."""
    size = sum(record.size for record in manifest.files.values())
    rows = [
        ("kind", f"{manifest.kind}, {', '.join(language(code) for code in manifest.languages)}"),
        ("architecture", architecture(recipe)),
        ("parameters", f"{manifest.provenance.parameters:,}"),
        ("stored as", PRECISIONS[manifest.precision]),
        ("size", f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"),
        ("revision", f"`{manifest.revision}`"),
        ("made", f"{manifest.provenance.created} from commit {manifest.provenance.commit[:12] or '(none)'}"),
    ]
    if "speed" in scores:
        speed = msgspec.convert(scores["speed"], Speed)
        rows.insert(5, ("speed", f"{speed.milliseconds:.2g} ms {speed.per}, one thread of {speed.machine}"))
    return rows


def architecture(recipe: Recipe) -> str:
    """The shape of the model in words."""
    if recipe.vectors is not None:
        vectors = recipe.vectors
        method = "skip-gram" if vectors.skip_gram else "continuous bag of words"
        loss = (
            "hierarchical softmax" if vectors.hierarchical_softmax else f"{vectors.negative} negative samples"
        )
        return f"Word2Vec, {method}, {loss}, {vectors.size} dimensions, window {vectors.window}"
    model = recipe.model
    assert model is not None  # the recipe was checked when it was read
    if not model.recurrent:
        depth = (
            f"{model.encoder_depth}+{model.decoder_depth}"
            if recipe.kind == "translator"
            else f"{model.layers}"
        )
        return f"Transformer, {depth} layers of {model.hidden}, {model.heads} heads"
    focus = " with attention" if recipe.kind == "translator" and model.attention else ""
    layers = f"{model.layers} layer{'s' * (model.layers > 1)}"
    return f"{model.architecture.upper()}, {layers} of {model.hidden}{focus}"


def caveats(manifest: Manifest, recipe: Recipe) -> list[str]:
    """The recipe's own warnings, then those of the kind."""
    general = {
        "vectors": [
            "A word has one vector, whatever its senses; opposites are often neighbours.",
            "Words rarer than the vocabulary's last one are unknown.",
            "Neighbours repeat the associations, fair or not, of the text they come from.",
        ],
        "language": [
            "It continues text in the manner of its corpus; it knows no facts and follows no instructions.",
            "What it writes repeats the prejudices of its corpus, and may be wrong or offensive.",
        ],
        "translator": [
            "Each sentence is translated alone: a pronoun whose noun is in another sentence is a guess.",
            "It may leave out or invent words, most of all in long sentences and in names it has never seen.",
        ],
    }
    return [*recipe.caveats, *general[manifest.kind]]


def examples(manifest: Manifest) -> str:
    """The golden examples as a table."""
    heads = {
        "vectors": ("word", "nearest"),
        "language": ("after", "it writes"),
        "translator": (language(manifest.languages[0]), language(manifest.languages[-1])),
    }
    rows = [(", ".join(example.input), ", ".join(example.output)) for example in manifest.golden]
    return table(heads[manifest.kind], rows)


def score_table(scores: Sequence[Score]) -> str:
    """Scores with set, size and command; what doing nothing clever scores beside them."""
    if not scores:
        return "Not yet measured: `python -m export.evaluate BUNDLE`."
    rows = [
        (
            score.metric,
            f"{score.value:.4g}",
            f"{score.floor:.4g} ({score.floor_is})" if score.floor is not None else "",
            f"{score.set}, {score.size:,} {score.unit}".strip() + (f"; {score.note}" if score.note else ""),
        )
        for score in scores
    ]
    ways = [f"`{command}`" for command in dict.fromkeys(score.command for score in scores)]
    signatures = [f"`{one}`" for one in dict.fromkeys(score.signature for score in scores if score.signature)]
    lines = [
        table(("metric", "score", "floor", "on"), rows),
        "Measured through this bundle by " + ", ".join(ways) + ".",
    ]
    if signatures:
        lines.append("sacrebleu: " + ", ".join(signatures) + ".")
    return "\n\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold anything."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: Any) -> str:
    """Text that stays in its cell."""
    return " ".join(str(text).replace("\\", "\\\\").replace("|", "\\|").split())
