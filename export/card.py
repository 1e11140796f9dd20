"""CARD.md: what a bundle is, in plain words, for somebody who decides whether to use it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import msgspec

from bundle.manifest import CARD, Check, Manifest
from export.markdown import bullets, table
from export.pack import read_scores, replace_text
from export.scores import Score, is_section, lost, scores_of
from training.config import Recipe, recipe_from

LANGUAGES = {"en": "English", "fr": "French"}
LEVELS = {"char": "character by character", "word": "word by word", "bpe": "sub-word by sub-word"}
PRECISIONS = {
    "fp32": "32-bit floats",
    "fp16": "16-bit floats",
    "int8": "8-bit integers with a scale for each output channel",
}
FORMS = {
    "plain": "operators of ONNX alone, for any runtime",
    "fast": "laid out for onnxruntime on CPUs",
    "both": "one set laid out for onnxruntime on CPUs, one of operators of ONNX alone for everything else",
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
    "rounded_choices": "loss by rounding the weights: places in its own texts with another likeliest token",
    "rankings_vs_gensim": "ten nearest words that are not gensim's, share of queries",
    "cosines_vs_gensim": "cosines: graph against gensim, largest difference",
    # of graphs that multiply whole numbers, which no torch can be held against number by number
    "whole_stepwise_vs_full": (
        "logits: token by token against all at once, root mean square in standard deviations"
    ),
    "whole_row_vs_batch": "texts whose logits differ alone and in a batch, number",
    "missed_of_ten": "loss by rounding the vectors: of gensim's ten nearest words, share not found",
}


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How long one thing takes alone on one thread, and where that was measured."""

    milliseconds: float
    per: str
    machine: str


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
                (what, f"{check.bound:g}", f"{check.observed:.2g}")
                for _, what, check in sorted(_checks(manifest), key=itemgetter(0))
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _checks(manifest: Manifest) -> Iterator[tuple[tuple[int, int], str, Check]]:
    """The checks with what each says in words, and their places: graphs by graphs, in the order of CHECKS."""
    order = list(CHECKS)
    for name, check in manifest.parity.items():
        fast = manifest.form == "fast" or name.startswith("fast_")
        plain = name.removeprefix("fast_")
        exact = plain.startswith("fp32_")
        plain = plain.removeprefix("fp32_")
        if exact and plain.startswith("round"):
            continue  # nothing was rounded
        if fast and manifest.precision == "int8" and not exact and f"whole_{plain}" in CHECKS:
            plain = f"whole_{plain}"
        graphs = "fast graphs, " if manifest.form == "both" and fast else ""
        graphs += "before rounding, " if exact else ""
        place = order.index(plain) if plain in CHECKS else len(order)
        yield (2 * fast + (fast and not exact), place), f"{graphs}{CHECKS.get(plain, plain)}", check


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
        *([("trained on from", f"{recipe.start}, whose corpora are below too")] if recipe.start else []),
        *([("graphs", FORMS[manifest.form or "plain"])] if manifest.kind != "vectors" else []),
        ("size", f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"),
        ("revision", f"`{manifest.revision}`"),
        ("made", f"{manifest.provenance.created} from commit {manifest.provenance.commit[:12] or '(none)'}"),
    ]
    if "speed" in scores:
        speed = msgspec.convert(scores["speed"], Speed)
        rows.insert(-2, ("speed", f"{speed.milliseconds:.2g} ms {speed.per}, one thread of {speed.machine}"))
    return rows


def architecture(recipe: Recipe) -> str:
    """The shape of the model in words."""
    if recipe.vectors is not None:
        vectors = recipe.vectors
        method = "skip-gram" if vectors.skip_gram else "continuous bag of words"
        loss = (
            "hierarchical softmax" if vectors.hierarchical_softmax else f"{vectors.negative} negative samples"
        )
        name = "FastText" if vectors.subwords else "Word2Vec"
        return f"{name}, {method}, {loss}, {vectors.size} dimensions, window {vectors.window}"
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
    golden = manifest.golden_fast or manifest.golden
    rows = [(", ".join(example.input), ", ".join(example.output)) for example in golden]
    return table(heads[manifest.kind], rows)


MEANINGS = {
    "bits per character": "what each character of a text it has not seen costs the model; lower is better",
    "perplexity per token": "how many tokens the model hesitates between, at each one; lower is better",
    "perplexity per word": "the same for whole words",
    "last word right, %": "how often the word it would write is the one that ends a passage",
    "last word right but for stop words, %": "the same of its first suggestion that is no word like *the*",
    "next word right, %": "how often the first word it suggests is the one that was written",
    "next word among 5, %": "how often one of its first five suggestions is",
    "next word among 10, %": "how often one of its first ten is",
    "keystrokes saved, %": "keys saved by taking a word as soon as it is among five suggestions",
    "BLEU": "how many runs of one to four words are those of a person's translation, from 0 to 100",
    "chrF": "the same of letters, which forgives endings",
    "Spearman's rho": "how well the order of the similarities agrees with people's; 1 is perfect",
    "analogies right, %": "questions such as *Paris is to France as Rome is to ...* answered right",
}
"""What the metrics say, for somebody who meets them here."""


def score_table(scores: Sequence[Score]) -> str:
    """Scores with set, size and command; beside each what is known of others on the same or a like set."""
    if not scores:
        return "Not yet measured: `python -m export.evaluate BUNDLE`."
    ngrams = {(score.metric, score.set, score.size): score for score in scores if score.part == "ngram"}
    shown = [score for score in scores if score.part not in ("ngram", "rounding") and not is_section(score)]
    rows = [
        (
            score.metric,
            f"{score.value:.4g}",
            "; ".join(beside(score, ngrams.get((score.metric, score.set, score.size)))),
            described(score),
        )
        for score in shown
    ]
    meanings = [
        f"**{name}**: {MEANINGS[name]}."
        for name in dict.fromkeys(s.metric for s in shown)
        if name in MEANINGS
    ]
    published = dict.fromkeys(
        f"{anchor.system}: {anchor.source}" + (f" ({anchor.note})" if anchor.note else "")
        for score in shown
        for anchor in score.anchors
    )
    ways = dict.fromkeys(f"`{score.command}`" for score in scores)
    signatures = dict.fromkeys(f"`{score.signature}`" for score in scores if score.signature)
    parts = [
        table(("metric", "score", "beside it", "on"), rows),
        *([bullets(meanings)] if meanings else []),
        *rounding_table(scores),
        "Measured through this bundle by " + ", ".join(ways) + ".",
    ]
    if published:
        parts.append("Published scores:\n\n" + bullets(f"{line}." for line in published))
    if signatures:
        parts.append("sacrebleu: " + ", ".join(signatures) + ".")
    return "\n\n".join(parts)


def beside(score: Score, ngram: Score | None) -> list[str]:
    """What other ways score: doing nothing clever, n-grams, published systems."""
    found = []
    if score.floor is not None:
        found.append(f"{score.floor:.4g} ({score.floor_is})")
    if ngram is not None:
        found.append(f"{ngram.value:.4g} ({ngram.note})")
    return found + [f"{anchor.value:g} ({anchor.system})" for anchor in score.anchors]


def described(score: Score) -> str:
    """What a score was measured on."""
    unseen = " (not trained on)" if score.unseen else ""
    coverage = f"; {100 * score.coverage:.1f} % known" if score.coverage is not None else ""
    note = f"; {score.note}" if score.note else ""
    return f"{score.set}{unseen}, {score.size:,} {score.unit}".strip() + coverage + note


def rounding_table(scores: Sequence[Score]) -> list[str]:
    """What the stored precision costs, where it was measured."""
    rows = [
        (score.metric, described(score), f"{score.exact:.5g}", f"{score.value:.5g}", lost(score))
        for score in scores
        if score.exact is not None and not score.unseen and not is_section(score)
    ]
    if not rows:
        return []
    return ["What rounding the weights costs:", table(("metric", "on", "32 bits", "stored", "lost"), rows)]
