"""Yardsticks of a packed bundle, measured through the code that serves it."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from bundle.language import Language
from bundle.sampling import log_softmax
from bundle.stepper import Prompt
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from export import ExportError
from export.card import Score
from training import similarity
from training.batching import IGNORE, LanguageBatch, line_batches
from training.evaluate import corpus_scores

BATCH_TOKENS = 4096
SENTENCES_AT_ONCE = 64


def language_scores(model: Language, lines: Sequence[str], *, name: str, command: str) -> list[Score]:
    """Bits per character and perplexities on whole lines, each from bos on and without the lines before it.

    The end of a line is a token, and counts as one word and one character. The floor is what a general
    compressor makes of the same text.
    """
    special = model.manifest.special
    if special.bos is None or special.eos is None:
        raise ExportError(f"{model.manifest.name}: the tokenizer lacks <bos> or <eos>")
    batches = line_batches(
        model.tokenizer,
        lines,
        bos=special.bos,
        eos=special.eos,
        pad=special.pad or 0,
        batch_tokens=BATCH_TOKENS,
        longest=model.manifest.limits.context_tokens,
    )
    nats = sum(_nats(model, batch) for batch in batches)
    tokens = sum(batch.tokens for batch in batches)
    words = sum(len(line.split()) + 1 for line in lines)
    characters = sum(len(line) + 1 for line in lines)
    packed = 8 * len(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9))
    score = partial(Score, set=name, size=len(lines), unit="lines", command=command)
    return [
        score(
            metric="bits per character",
            value=nats / math.log(2) / characters,
            floor=packed / characters,
            floor_is="xz -9",
        ),
        score(metric="perplexity per token", value=math.exp(nats / tokens), note=f"{tokens:,} tokens"),
        score(metric="perplexity per word", value=math.exp(nats / words), note=f"{words:,} words"),
    ]


def _nats(model: Language, batch: LanguageBatch) -> float:
    """Negative log-probability of the batch's targets."""
    wanted = [np.flatnonzero(row != IGNORE) for row in batch.targets]
    prompts = [
        Prompt(ids=tuple(int(i) for i in ids[: places[-1] + 1]))
        for ids, places in zip(batch.ids, wanted, strict=True)
    ]
    total = 0.0
    for logits, targets, places in zip(model.stepper.score(prompts), batch.targets, wanted, strict=True):
        scores = log_softmax(logits[places])
        total -= float(scores[np.arange(len(places)), targets[places]].sum(dtype=np.float64))
    return total


def translation_scores(
    model: Translator, pairs: Sequence[tuple[str, str]], *, name: str, command: str
) -> list[Score]:
    """BLEU and chrF of the greedy and of the bundle's default translation, one reference each.

    The floor is the source handed back untranslated.
    """
    sources, references = [source for source, _ in pairs], [target for _, target in pairs]
    floor = corpus_scores(sources, references)
    default = model.manifest.decoding.beam
    scores = []
    for beam in sorted({1, default}):
        found = corpus_scores(translate(model, sources, beam=beam), references)
        how = "greedy" if beam == 1 else f"beam {beam}"
        score = partial(Score, set=name, size=len(pairs), unit="sentences", command=command, note=how)
        for metric, key in (("BLEU", "bleu"), ("chrF", "chrf")):
            if key in found:  # single words have no BLEU
                scores.append(
                    score(
                        metric=metric,
                        value=float(found[key]),
                        floor=float(floor[key]) if key in floor else None,
                        floor_is="the source itself",
                        signature=str(found[f"{key}_signature"]),
                    )
                )
    return scores


def translate(model: Translator, texts: Sequence[str], *, beam: int) -> list[str]:
    """Translations of many texts at once, as users get them one by one."""
    jobs = [model.job(text, TranslationOptions(beam=beam)) for text in texts]
    decoder = model.decoder(max_rows=SENTENCES_AT_ONCE * beam)
    # like lengths together: a batch is as long as its longest row
    for at in sorted(range(len(jobs)), key=lambda at: len(texts[at])):
        for index, request in enumerate(jobs[at].requests):
            decoder.add(request, (at, index))
    while decoder.active or decoder.waiting:
        for event in decoder.step():
            assert isinstance(event.tag, tuple)
            at, index = event.tag
            jobs[at].feed(index, event)
    return [job.result().text for job in jobs]


def vector_scores(model: Vectors, *, command: str) -> list[Score]:
    """Analogies and agreement with human judgements, of the vectors as the graph holds them.

    English has public sets. French has a small one of our own, for analogies; other languages have none.
    """
    if model.manifest.languages not in (["en"], ["fr"]):
        return []
    english = model.manifest.languages == ["en"]
    words = [word for word in model.tokenizer.words() if word in model]
    space = similarity.Space(words, model.embed(words))
    scores = []
    for name, pairs in similarity.PAIRS.items() if english else ():
        found = similarity.agreement(space, similarity.evaluation_file(pairs))
        scores.append(
            Score(
                metric="Spearman's rho",
                value=found.spearman,
                set=name,
                size=found.known,
                unit=f"of {found.pairs} pairs, both words known",
                command=command,
            )
        )
    file = similarity.evaluation_file(similarity.QUESTIONS) if english else similarity.FRENCH
    sections = similarity.analogies(space, file)
    for label, syntactic in (("semantic", False), ("syntactic", True)):
        chosen = [one for one in sections if one.name.startswith("gram") == syntactic]
        asked, known = sum(one.questions for one in chosen), sum(one.known for one in chosen)
        correct = sum(one.correct for one in chosen)
        scores.append(
            Score(
                metric=f"{label} analogies, % right",
                value=100.0 * correct / asked,
                set="questions-words" if english else "our own French pairs (training/analogies-fr.txt)",
                size=asked,
                unit="questions, an unknown word is a wrong answer",
                note=f"{known:,} with known words, {100.0 * correct / max(1, known):.1f} % of them right",
                command=command,
            )
        )
    return scores
