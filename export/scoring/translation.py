"""How good translations are: BLEU and chrF, as users get them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bundle.translator import TranslationOptions, Translator
from export.scores import Score
from training.evaluate import corpus_scores

SENTENCES_AT_ONCE = 64


def translation_scores(
    model: Translator, pairs: Sequence[tuple[str, str]], *, name: str, command: str, unseen: bool = False
) -> list[Score]:
    """BLEU and chrF of the greedy and of the bundle's default translation, one reference each.

    The floor is the source handed back untranslated.
    """
    sources, references = [source for source, _ in pairs], [target for _, target in pairs]
    floor = corpus_scores(sources, references)
    scores = []
    for beam in sorted({1, model.manifest.decoding.beam}):
        found = corpus_scores(translate(model, sources, beam=beam), references)
        score = partial(
            Score,
            set=name,
            size=len(pairs),
            unit="sentences",
            command=command,
            part="bleu",
            unseen=unseen,
            note="greedy" if beam == 1 else f"beam {beam}",
        )
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
    asked = [0] * len(jobs)
    # like lengths together: a batch is as long as its longest row
    for at in sorted(range(len(jobs)), key=lambda at: len(texts[at])):
        for index, request in enumerate(jobs[at].requests):
            decoder.add(request, (at, index))
            asked[at] = index + 1
    while decoder.active or decoder.waiting:
        for event in decoder.step():
            assert isinstance(event.tag, tuple)
            at, index = event.tag
            jobs[at].feed(index, event)
            for further in range(asked[at], len(jobs[at].requests)):  # what came back without its numbers
                decoder.add(jobs[at].requests[further], (at, further))
                asked[at] = further + 1
    return [job.result().text for job in jobs]
