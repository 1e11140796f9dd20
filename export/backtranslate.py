"""`python -m export.backtranslate BUNDLE TEXT OUT`: sentence pairs out of text in one language.

Back-translation (Sennrich et al. 2016): a model of the other direction translates real text, and the pairs,
synthetic on the source side and real on the target side, are trained on beside real ones. The synthetic side
begins with a tag (Caswell et al. 2019), so that the model does not take it for real.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from bundle.errors import VoisinError
from bundle.load import open_bundle
from bundle.sentences import split_text
from bundle.translator import Translator
from export import ExportError
from export.pack import replace_text
from export.scoring.translation import translate
from training import corpus

TAG = "<bt>"
CHUNK = 512  # sentences translated together: enough for batches of like length


def sentences(lines: Iterable[str], language: str, *, shortest: int, longest: int) -> Iterator[str]:
    """Sentences of running text with so many words, each once, without tabs.

    language: where sentences end is a matter of its abbreviations.
    """
    seen: set[int] = set()
    for line in lines:
        for is_sentence, text in split_text(" ".join(line.split()), language):
            if is_sentence and shortest <= len(text.split()) <= longest and hash(text) not in seen:
                seen.add(hash(text))
                yield text


def back_translated(
    model: Translator, texts: Iterable[str], *, beam: int = 1, tag: str = TAG, ratio: float = 2.5
) -> Iterator[tuple[str, str]]:
    """(tagged synthetic source, real target) of each text whose translation can be one.

    ratio: most times that one side may be longer than the other, in characters.
    """
    stream = iter(texts)
    while chunk := list(islice(stream, CHUNK)):
        for real, made in zip(chunk, translate(model, chunk, beam=beam), strict=True):
            made = " ".join(made.split())
            lengths = sorted((len(real), len(made)))
            if made and made != real and lengths[1] <= ratio * lengths[0]:
                yield f"{tag} {made}".strip(), real


def main(arguments: Sequence[str] | None = None) -> int:
    """0: written; 1: not, for the reason told."""
    options = parser().parse_args(arguments)
    try:
        if options.out.exists() and not options.force:
            raise ExportError(f"{options.out}: exists; --force replaces it")
        model = open_bundle(options.bundle)
        if not isinstance(model, Translator):
            raise ExportError(f"{options.bundle}: a {model.manifest.kind} does not translate")
        source = corpus.Source(path=options.text, name=options.text, licence="", attribution="")
        found = sentences(
            corpus.lines([source], seed=options.seed),
            model.source_language,
            shortest=options.shortest,
            longest=options.longest,
        )
        chosen = tqdm(islice(found, options.limit or None), unit=" sentences", total=options.limit or None)
        pairs = list(back_translated(model, chosen, beam=options.beam, tag=options.tag, ratio=options.ratio))
        # the columns of the corpora: English, then French
        english = model.target_language == "en"
        rows = (f"{made}\t{real}\n" if english else f"{real}\t{made}\n" for made, real in pairs)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(options.out, "".join(rows))
        print(f"{options.out}: {len(pairs):,} pairs")
    except (VoisinError, OSError) as error:
        print(f"export.backtranslate: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.backtranslate", description="Make sentence pairs of text in one language."
    )
    parser.add_argument("bundle", type=Path, help="translator out of the text's language")
    parser.add_argument("text", help="a file or a glob of text, compressed or not")
    parser.add_argument("out", type=Path, help="TSV to write")
    parser.add_argument("--limit", type=int, default=100_000, help="sentences translated; 0 = all (100000)")
    parser.add_argument("--shortest", type=int, default=3, help="least words of a sentence (3)")
    parser.add_argument("--longest", type=int, default=25, help="most words of a sentence (25)")
    parser.add_argument("--beam", type=int, default=1, help="width of the search (1, greedy)")
    parser.add_argument(
        "--ratio", type=float, default=2.5, help="most that one side may be longer than the other (2.5)"
    )
    parser.add_argument("--tag", default=TAG, help=f"what the synthetic side begins with ({TAG})")
    parser.add_argument("--seed", type=int, default=1, help="order in which files are mixed (1)")
    parser.add_argument("--force", action="store_true", help="replace the file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
