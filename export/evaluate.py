"""`python -m export.evaluate BUNDLE|all`: scores through the exported path, kept with the bundle.

A bundle says in its manifest what it was trained on and which part was held out; the corpora themselves come
from `--data` (or `VOISIN_DATA`), or any text of yours from `--text`. What is measured comes in parts, which
`--only` chooses among; scores of the other parts stay as they were.

    language     perplexity  bits per character, perplexities of held-out text, corpus by corpus
                 ngram       the same of modified Kneser-Ney n-grams over the bundle's tokens
                 lambada     the last word of LAMBADA's passages (English)
                 words       next-word accuracy and keystrokes saved
    translator   bleu        BLEU and chrF, greedy and by beam
                 robust      what is visibly wrong in answers to one or two words
                 passthrough punctuation, numbers and names
    vectors      similarity  WordSim-353 and SimLex-999 (English)
                 analogies   questions-words, or our own French pairs
    all          rounding    what the stored precision costs, with `--against`
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from bundle.errors import VoisinError
from bundle.language import Language
from bundle.load import Model, open_bundle
from bundle.manifest import MANIFEST, TOKENIZER, Manifest, read_manifest
from bundle.translator import Translator
from bundle.vectors import Vectors
from export import ExportError, pack, testsets
from export.card import write_card
from export.results import bundles, write_results
from export.scores import Score, anchored, scores_of
from export.testsets import Sample
from training.checkpoint import RECIPE
from training.config import Recipe, recipe_from

LIMIT = 1000
NGRAM_TOKENS = 20_000_000

PARTS = {
    "language": ("perplexity", "ngram", "lambada", "words"),
    "translator": ("bleu", "robust", "passthrough"),
    "vectors": ("similarity", "analogies"),
}
ROUNDING = "rounding"
_ON_TEXT = ("perplexity", "words", "bleu", "robust")
"""Parts that can be measured on a file."""
_ROUNDED = ("perplexity", "bleu", "similarity", "analogies")
"""Parts that are measured again on 32-bit weights."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes:
        limit: most lines, pairs or passages of each set.
        text: score on this file (lines; for a translator two columns, source and target), nothing else.
        only: parts; empty is all.
        against: a run, or a bundle of it with 32-bit weights (or a folder of them, by name).
        ngram_tokens: tokens that the n-grams count at most (0 = all); ngram_order: 0 chooses.
    """

    limit: int = LIMIT
    text: Path | None = None
    only: tuple[str, ...] = ()
    against: Path | None = None
    ngram_tokens: int = NGRAM_TOKENS
    ngram_order: int = 0


def evaluate(folder: Path, options: Options) -> list[Score]:
    """Scores of one bundle; nothing is written.

    Raises:
        VoisinError: a corpus is missing, or the bundle does not open.
    """
    return [score for scores in by_part(folder, options) for score in scores]


def by_part(folder: Path, options: Options) -> Iterator[list[Score]]:
    """The scores of :func:`evaluate`, part by part as they are measured."""
    model = open_bundle(folder)
    parts = chosen_parts(model.manifest, options)
    texts = _Texts(_recipe(model.manifest), options)
    measured = _Evaluation(model, folder, options, texts)
    plain = [part for part in parts if part != ROUNDING]
    if ROUNDING not in parts or options.against is None:
        for part in plain:
            yield measured.part(part)
        return
    with exact_bundle(options.against, model.manifest) as exact:  # refused before anything takes its time
        for part in plain:
            yield measured.part(part)
        other = _Evaluation(open_bundle(exact), exact, options, texts)
        command = measured.command(ROUNDING)
        yield [
            score
            for part in PARTS[model.manifest.kind]
            if part in _ROUNDED
            for score in rounding(measured.part(part), other.part(part), command)
        ]


def chosen_parts(manifest: Manifest, options: Options) -> list[str]:
    """The parts to measure, in their order.

    Raises ExportError for a part that no bundle has, or that lacks what it needs.
    """
    known = {part for parts in PARTS.values() for part in parts} | {ROUNDING}
    for part in options.only:
        if part not in known:
            raise ExportError(f"--only {part}: not one of {', '.join(sorted(known))}")
    if ROUNDING in options.only and options.against is None:
        raise ExportError("--only rounding: needs --against a run, or a bundle of 32-bit weights")
    parts = [
        part
        for part in PARTS[manifest.kind]
        if (part in options.only if options.only else options.text is None or part in _ON_TEXT)
    ]
    if options.against is not None and (not options.only or ROUNDING in options.only):
        parts.append(ROUNDING)
    return parts


class _Texts:
    """The test sets of a recipe, read when they are first asked for."""

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.recipe = recipe
        self.options = options

    @cached_property
    def lines(self) -> list[Sample[str]]:
        """What a language model is scored on."""
        text, limit = self.options.text, self.options.limit
        if text is not None:
            return [testsets.lines_of(text, limit)]
        return list(testsets.held_out_lines(self.recipe, limit))

    @cached_property
    def pairs(self) -> list[Sample[tuple[str, str]]]:
        """What a translator is scored on."""
        text, limit = self.options.text, self.options.limit
        if text is not None:
            return [testsets.pairs_of(text, (self.recipe.languages[0], self.recipe.languages[1]), limit)]
        return list(testsets.held_out_pairs(self.recipe, limit))


class _Evaluation:
    """One bundle and its parts, each measured once."""

    def __init__(self, model: Model, folder: Path, options: Options, texts: _Texts) -> None:
        self.model = model
        self.options = options
        self.texts = texts
        self._name = folder.name
        self._found: dict[str, list[Score]] = {}

    def command(self, part: str) -> str:
        """What measures that part again."""
        options = self.options
        words = [f"python -m export.evaluate {self._name} --only {part}"]
        if options.limit != LIMIT and part not in ("similarity", "analogies", "passthrough"):
            words.append(f"--limit {options.limit}")
        if options.text is not None:
            words.append(f"--text {options.text.name}")
        if part == "ngram":
            words.append(f"--ngram-tokens {options.ngram_tokens}")
            if options.ngram_order:
                words.append(f"--ngram-order {options.ngram_order}")
        if part == ROUNDING:
            words.append(f"--against {options.against}")
        return " ".join(words)

    def part(self, part: str) -> list[Score]:
        """The scores of a part."""
        if part not in self._found:
            print(f"{self._name}: {part} ...", file=sys.stderr, flush=True)
            model = self.model
            if isinstance(model, Vectors):
                self._found[part] = self._vectors(model, part)
            elif isinstance(model, Language):
                self._found[part] = self._language(model, part)
            else:
                self._found[part] = self._translator(model, part)
        return self._found[part]

    def _vectors(self, model: Vectors, part: str) -> list[Score]:
        from export.scoring.vectors import analogy_scores, similarity_scores, space_of

        measure = similarity_scores if part == "similarity" else analogy_scores
        return measure(space_of(model), model.manifest.languages, command=self.command(part))

    def _language(self, model: Language, part: str) -> list[Score]:
        from export.scoring.baseline import ngram_scores, train_ngrams
        from export.scoring.lambada import lambada_scores
        from export.scoring.language import language_scores
        from export.scoring.words import word_scores

        options, command, languages = self.options, self.command(part), model.manifest.languages
        if part == "lambada":
            sample = testsets.lambada(options.limit) if languages == ["en"] else None
            if sample is None:
                return []
            found = lambada_scores(model, sample.items, name=sample.name, command=command)
            return anchored(found, sample.key, languages)
        scores = []
        if part == "ngram":
            ngrams = train_ngrams(
                model, self.texts.recipe, tokens=options.ngram_tokens, order=options.ngram_order
            )
            for sample in self.texts.lines:
                scores += ngram_scores(ngrams, model, sample.items, name=sample.name, command=command)
            return scores
        measure = language_scores if part == "perplexity" else word_scores
        for sample in self.texts.lines:
            found = measure(model, sample.items, name=sample.name, command=command)
            scores += anchored(found, sample.key, languages)
        return scores

    def _translator(self, model: Translator, part: str) -> list[Score]:
        from export.scoring.robust import passthrough_scores, robust_scores
        from export.scoring.translation import translation_scores

        command = self.command(part)
        if part == "passthrough":
            return passthrough_scores(model, command=command)
        if part == "robust":
            sentences = [source for sample in self.texts.pairs for source, _ in sample.items]
            name = "the sets above" if len(self.texts.pairs) > 1 else self.texts.pairs[0].name
            return robust_scores(model, sentences, name=name, command=command)
        scores = []
        for sample in self.texts.pairs:
            found = translation_scores(
                model, sample.items, name=sample.name, command=command, unseen=sample.unseen
            )
            scores += anchored(found, sample.key, model.manifest.languages)
        return scores


def rounding(stored: Sequence[Score], exact: Sequence[Score], command: str) -> list[Score]:
    """The scores of the stored weights with those of 32-bit ones beside them."""
    return [
        msgspec.structs.replace(
            one, exact=other.value, part=ROUNDING, command=command, anchors=[], floor=None, floor_is=""
        )
        for one, other in zip(stored, exact, strict=True)
    ]


@contextmanager
def exact_bundle(against: Path, manifest: Manifest) -> Iterator[Path]:
    """The bundle of 32-bit weights of the run that `manifest` comes from; exported where there is none.

    against: a run, or a bundle; or a folder that has one by the name of the bundle.

    Raises ExportError where it is another run's.
    """
    place = against / manifest.name if (against / manifest.name).is_dir() else against
    with tempfile.TemporaryDirectory(prefix="voisin-") as folder:
        if (place / RECIPE).is_file():
            from export.pipeline import export_run

            exact = Path(folder) / manifest.name
            export_run(place, exact, precision="fp32")
        else:
            exact = place
        found = read_manifest(exact)
        if found.precision != "fp32":
            raise ExportError(f"{exact}: has the precision {found.precision}; fp32 is needed")
        same = _recipe(found) == _recipe(manifest)
        if not same or found.files[TOKENIZER] != manifest.files[TOKENIZER]:
            raise ExportError(f"{place}: is not the run that {manifest.name} was exported from")
        yield exact


def _recipe(manifest: Manifest) -> Recipe:
    return recipe_from(tomllib.loads(manifest.provenance.recipe), manifest.name)


def record(folder: Path, scores: Sequence[Score]) -> None:
    """Writes scores.json and refreshes the card. Parts not measured now stay, of the same revision."""
    manifest = read_manifest(folder)
    before = pack.read_scores(folder)
    measured = {score.part for score in scores}
    kept = [
        score
        for score in (scores_of(before) if before.get("revision") == manifest.revision else [])
        if score.part and score.part not in measured
    ]
    order = [*PARTS[manifest.kind], ROUNDING]
    everything = sorted([*kept, *scores], key=lambda score: order.index(score.part))
    pack.write_scores(
        folder, before | {"revision": manifest.revision, "scores": msgspec.to_builtins(everything)}
    )
    write_card(folder, manifest)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: scored and recorded; 1: not, for the reason told."""
    asked = parser().parse_args(arguments)
    if asked.data is not None:
        os.environ["VOISIN_DATA"] = str(asked.data.resolve())  # recipes name their corpora by it
    options = Options(
        limit=asked.limit,
        text=asked.text,
        only=tuple(part for part in asked.only.split(",") if part),
        against=asked.against,
        ngram_tokens=asked.ngram_tokens,
        ngram_order=asked.ngram_order,
    )
    try:
        if options.limit < 1:
            raise ExportError(f"--limit {options.limit}: must be at least 1")
        chosen = bundles(asked.models) if asked.bundle == "all" else [_find(asked.bundle, asked.models)]
        if not chosen:
            raise ExportError(f"{asked.models}: no bundle there")
        for folder in chosen:
            for scores in by_part(folder, options):
                if scores:
                    record(folder, scores)
                for score in scores:
                    print(f"{folder.name}: {_told(score)}", flush=True)
        if asked.results is not None:
            write_results(asked.results, asked.models)
    except (VoisinError, OSError) as error:
        print(f"export.evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def _told(score: Score) -> str:
    """A score on one line."""
    exact = f" ({score.exact:.4g} in 32 bits)" if score.exact is not None else ""
    note = f"; {score.note}" if score.note else ""
    return f"{score.metric} {score.value:.4g}{exact} on {score.set}, {score.size} {score.unit}{note}"


def _find(name: str, models: Path) -> Path:
    return models / name if (models / name / MANIFEST).is_file() else Path(name)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.evaluate", description="Score bundles as they are served."
    )
    parser.add_argument("bundle", help="a bundle's folder, its name in the models folder, or `all`")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    parser.add_argument("--data", type=Path, help="folder of the corpora (VOISIN_DATA)")
    parser.add_argument("--text", type=Path, help="score on this file instead of the recipe's held-out text")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"most lines or pairs of a set ({LIMIT})")
    parser.add_argument("--only", default="", help="parts to measure, such as perplexity,ngram (all)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="the run (or its fp32 bundle, or a folder of those by name): also measure what rounding costs",
    )
    parser.add_argument(
        "--ngram-tokens",
        type=int,
        default=NGRAM_TOKENS,
        help=f"most tokens that the n-gram baseline counts, 0 for all ({NGRAM_TOKENS:,})",
    )
    parser.add_argument("--ngram-order", type=int, default=0, help="longest n-gram (char 8, word and bpe 5)")
    parser.add_argument(
        "--results", type=Path, help="renew the tables between the markers of this file (docs/results.md)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
