"""The tables of docs/results.md, one for each kind of score, from the scores.json of every bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundle.manifest import MANIFEST, Manifest, read_manifest
from export import ExportError, pack
from export.markdown import bullets, table
from export.scores import Score, is_section, lost, scores_of

BEGIN, END = "<!-- scores: written by python -m export.evaluate -->", "<!-- end of scores -->"

Row = tuple[Manifest, Score]


def bundles(models: Path) -> list[Path]:
    """The bundles of a folder, by name."""
    return sorted(path.parent for path in models.glob(f"*/{MANIFEST}"))


def write_results(path: Path, models: Path) -> None:
    """Renews the tables between the markers of a page (a new page is begun where there is none).

    Raises ExportError where the page lacks the markers.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ExportError(f"{path}: the markers {BEGIN} and {END} are missing")
    pack.replace_text(path, f"{before}{BEGIN}\n{results(models)}\n{END}{after}")


def results(models: Path) -> str:
    """Every table, each with what its columns mean and the commands that measure it again."""
    manifests = [read_manifest(folder) for folder in bundles(models)]
    rows = [
        (manifest, score)
        for manifest, folder in zip(manifests, bundles(models), strict=True)
        for score in scores_of(pack.read_scores(folder))
        if score.part
    ]
    sections = [
        "## The bundles",
        _sizes(manifests),
        "Every command below reads the corpora from the folder `VOISIN_DATA`; NAME is the bundle's. It "
        "writes `scores.json` and `CARD.md` of the bundle, and with `--results docs/results.md` these "
        "tables. *Held-out test* is the test half of what a recipe holds out by hash, with its share of the "
        "corpus: no line of it was trained on, and checkpoints were chosen on the other half. Published "
        "scores bear the number of their source, which stands below the table.",
    ]
    for title, parts, build in _TABLES:
        chosen = [row for row in rows if row[1].part in parts]
        if chosen:
            sections += [f"## {title}", *build(chosen), _commands(chosen)]
    return "\n\n".join(sections) + "\n"


def _sizes(manifests: Sequence[Manifest]) -> str:
    sizes = [sum(record.size for record in manifest.files.values()) / 1e6 for manifest in manifests]
    rows = [
        (
            manifest.name,
            manifest.kind,
            f"{manifest.provenance.parameters:,}",
            manifest.precision,
            f"{size:.1f}",
            f"`{manifest.revision}`",
        )
        for manifest, size in zip(manifests, sizes, strict=True)
    ]
    head = ("bundle", "kind", "parameters", "weights", "MB", "revision")
    return table(head, [*rows, ("all", "", "", "", f"{sum(sizes):.1f}", "")])


@dataclass
class _Notes:
    """Published scores in the order in which a table names them."""

    lines: list[str] = field(default_factory=list)

    def cite(self, score: Score | None) -> str:
        """The published scores beside one of ours."""
        cells = []
        for anchor in score.anchors if score is not None else ():
            line = f"{anchor.system}: {anchor.source}" + (f" ({anchor.note})" if anchor.note else "")
            if line not in self.lines:
                self.lines.append(line)
            cells.append(f"{anchor.value:g} [{self.lines.index(line) + 1}]")
        return ", ".join(cells)

    def listed(self) -> list[str]:
        """The list to print below the table."""
        return [bullets(f"[{number}] {line}" for number, line in enumerate(self.lines, 1))] * bool(self.lines)


def _groups(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, Score]]:
    """Scores by bundle and set, then by part, metric and note (`bleu BLEU greedy`)."""
    groups: dict[tuple[str, str], dict[str, Score]] = {}
    for manifest, score in rows:
        group = groups.setdefault((manifest.name, score.set), {})
        group[f"{score.part} {score.metric}"] = score
        group[f"{score.part} {score.metric} {'greedy' if score.note == 'greedy' else 'beam'}"] = score
    return groups


def _value(score: Score | None, form: str = ".4g") -> str:
    return "" if score is None else format(score.value, form)


def _count(group: dict[str, Score]) -> str:
    return f"{next(iter(group.values())).size:,}"


def _vectors(rows: Sequence[Row]) -> list[str]:
    notes = _Notes()
    lines = [
        (
            manifest.name,
            score.set,
            f"{score.size:,}",
            f"{score.value:.3f}" if score.part == "similarity" else f"{score.value:.1f} %",
            "" if score.coverage is None else f"{100 * score.coverage:.1f} %",
            notes.cite(score),
        )
        for manifest, score in rows
    ]
    said = (
        "Pairs of words: Spearman's rho over the pairs of which both words are known. Analogies: share "
        "answered right of all questions, lower-cased, where an unknown word makes a wrong answer. "
        "Coverage: share of the set whose words are all known."
    )
    return [said, table(("bundle", "set", "size", "score", "coverage", "published"), lines), *notes.listed()]


def _texts(rows: Sequence[Row]) -> list[str]:
    notes = _Notes()
    lines = []
    for (name, text), group in _groups(rows).items():
        bits, words = group.get("perplexity bits per character"), group.get("perplexity perplexity per word")
        compressed = f"{bits.floor:.3f}" if bits is not None and bits.floor is not None else ""
        lines.append(
            (
                name,
                text,
                _count(group),
                _value(bits, ".3f"),
                _value(group.get("ngram bits per character"), ".3f"),
                compressed,
                _value(words),
                _value(group.get("ngram perplexity per word")),
                _value(group.get("perplexity perplexity per token")),
                ", ".join(filter(None, (notes.cite(bits), notes.cite(words)))),
            )
        )
    head = (
        "bundle",
        "text",
        "lines",
        "bits per character",
        "of n-grams",
        "of xz -9",
        "perplexity per word",
        "of n-grams",
        "per token",
        "published",
    )
    said = (
        "Lower is better. Each line by itself, from its beginning; its end counts as one word and one "
        "character. The n-grams are modified Kneser-Ney (Chen and Goodman 1998) over the same tokens, "
        "trained on the training side of the same corpora."
    )
    counted = dict.fromkeys(
        f"{manifest.name}: {score.note}" for manifest, score in rows if score.part == "ngram"
    )
    return [said, table(head, lines), *([bullets(counted)] if counted else []), *notes.listed()]


def _typing(rows: Sequence[Row]) -> list[str]:
    metrics = ("next word right, %", "next word among 5, %", "next word among 10, %", "keystrokes saved, %")
    lines = [
        (name, text, _count(group), *(_value(group.get(f"words {metric}"), ".1f") for metric in metrics))
        for (name, text), group in _groups(rows).items()
    ]
    said = (
        "One word of each line, given what stands before it. Keystrokes saved (Trnka and McCoy 2008): "
        "1 - keys with suggestions / keys without; five suggestions before every letter, taking one costs "
        "one key and brings the space."
    )
    return [said, table(("bundle", "text", "words", *metrics), lines)]


def _last_words(rows: Sequence[Row]) -> list[str]:
    notes = _Notes()
    lines = []
    for (name, text), group in _groups(rows).items():
        greedy = group.get("lambada last word right, %")
        filtered = group.get("lambada last word right but for stop words, %")
        cells = (_value(greedy, ".1f"), _value(filtered, ".1f"), notes.cite(filtered))
        lines.append((name, text, _count(group), *cells))
    said = (
        "The word that the service's word completion writes first, greedily; and the first of its ten "
        "suggestions that is no stop word, as in the published scores. The passages are public, lower-cased "
        "and cut into tokens: ours are put back into ordinary spelling, and case is not compared."
    )
    head = ("bundle", "set", "passages", "last word right, %", "but for stop words, %", "published")
    return [said, table(head, lines), *notes.listed()]


def _translations(rows: Sequence[Row]) -> list[str]:
    notes = _Notes()
    lines = []
    for (name, text), group in _groups(rows).items():
        bleu, chrf = group.get("bleu BLEU beam"), group.get("bleu chrF beam")
        some = bleu or next(iter(group.values()))
        lines.append(
            (
                name,
                text + (" (not trained on)" if some.unseen else ""),
                _count(group),
                _value(group.get("bleu BLEU greedy"), ".1f"),
                _value(bleu, ".1f"),
                "" if bleu is None or bleu.floor is None else f"{bleu.floor:.1f}",
                notes.cite(bleu),
                _value(group.get("bleu chrF greedy"), ".1f"),
                _value(chrf, ".1f"),
                notes.cite(chrf),
            )
        )
    beams = sorted({score.note for _, score in rows if score.note.startswith("beam")})
    beam = beams[0] if len(beams) == 1 else "beam"
    signatures = dict.fromkeys(f"{score.metric}: `{score.signature}`" for _, score in rows if score.signature)
    head = (
        "bundle",
        "set",
        "sentences",
        "BLEU greedy",
        f"BLEU {beam}",
        "BLEU of the source itself",
        "published",
        "chrF greedy",
        f"chrF {beam}",
        "published",
    )
    said = "One reference for each source; the sets are the same pairs in both directions."
    return [said, table(head, lines), bullets(signatures), *notes.listed()]


def _robust(rows: Sequence[Row]) -> list[str]:
    lines = [
        (manifest.name, score.metric, f"{score.value:.0f} of {score.size:,}", score.note)
        for manifest, score in rows
    ]
    said = "Words, and pairs of neighbouring words, of the test sets above, taken by hash; 0 is good."
    return [said, table(("bundle", "what is wrong", "how many", "such as"), lines)]


def _passed(rows: Sequence[Row]) -> list[str]:
    metrics = ("unchanged, %", "still there, %", "sane, %")
    lines = []
    for (name, kind), group in _groups(rows).items():
        found = [group.get(f"passthrough {metric}") for metric in metrics]
        worst = next((score.note for score in reversed(found) if score is not None and score.note), "")
        lines.append((name, kind, _count(group), *(_value(score, ".0f") for score in found), worst))
    said = (
        "A fixed list (`export/passthrough.toml`). Still there: the answer holds the text, whatever its "
        "case. Sane: not empty, every number kept, no word three times in a row, not over four times as long."
    )
    return [said, table(("bundle", "what", "texts", *metrics, "such as"), lines)]


def _rounded(rows: Sequence[Row]) -> list[str]:
    lines = []
    for manifest, score in rows:
        if score.exact is None or is_section(score):
            continue
        note = f" ({score.note})" if score.note.startswith(("greedy", "beam")) else ""
        lines.append(
            (
                manifest.name,
                score.set,
                score.metric + note,
                f"{score.exact:.5g}",
                f"{score.value:.5g}",
                lost(score),
            )
        )
    said = "The same run with 32-bit weights, measured the same way."
    return [said, table(("bundle", "set", "metric", "32 bits", "stored", "lost"), lines)]


def _commands(rows: Iterable[Row]) -> str:
    """What measures the rows again, once for all bundles where only their name differs."""
    found = dict.fromkeys(
        f"`{score.command.replace(f'export.evaluate {m.name} ', 'export.evaluate NAME ')}`"
        for m, score in rows
    )
    return "Measured by " + ", ".join(found) + "."


_TABLES: tuple[tuple[str, tuple[str, ...], Callable[[Sequence[Row]], list[str]]], ...] = (
    ("Word vectors", ("similarity", "analogies"), _vectors),
    ("Language models: held-out text", ("perplexity", "ngram"), _texts),
    ("Language models: completing words", ("words",), _typing),
    ("Language models: LAMBADA", ("lambada",), _last_words),
    ("Translation", ("bleu",), _translations),
    ("Translation of one or two words", ("robust",), _robust),
    ("Translation of what is no sentence", ("passthrough",), _passed),
    ("What rounding the weights costs", ("rounding",), _rounded),
)
