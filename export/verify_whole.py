"""Graphs that multiply whole numbers: what rounding activations, too, may cost, and what it may not.

Such a graph cannot be held against torch number by number: each product rounds its rows to 8 bits. So the
same lowering is first proved in float32, strictly (`export.verify`), and then the rounded graph is held to
three things: its logits stay near the trained model's, a row is the same to the last bit whatever its batch,
and a text read step by step is near to one read at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bundle.manifest import Check
from bundle.stepper import Prompt
from export.lower import lower
from export.pack import write_graphs
from export.verify import (
    BATCHES,
    BEAM,
    Bounds,
    Logits,
    Subject,
    declared,
    decode,
    disagreement,
    failures,
    own_texts,
    random_prompts,
    relative,
    stepwise,
    verify_steps,
)

BOUNDS = Bounds(arithmetic=0.05, rounding=0.15, choices=0.1)
"""`arithmetic`: between two ways of computing, root mean square, in standard deviations of the logits."""


def verify_whole(
    subject: Subject, samples: Sequence[Prompt], *, vocab: int, seed: int = 0
) -> dict[str, Check]:
    """The checks of a fast int8 language model or translator; those of the float32 lowering begin with
    ``fp32_``."""
    declared(subject)
    exact = _exactly(subject, samples, vocab=vocab, seed=seed)
    if failures(exact):
        return dict(exact)
    exported, trained = subject.exported(), subject.torch(subject.trained)
    rng = np.random.default_rng(seed)
    rounded: list[Logits] = []
    wanted: list[Logits] = []
    stepped: list[Logits] = []
    at_once: list[Logits] = []
    changed = 0
    batches = [random_prompts(subject, rng, rows=rows, vocab=vocab) for rows in BATCHES]
    for prompts in [*batches, list(samples)] if samples else batches:
        full = exported.score(prompts)
        alone = [exported.score([prompt])[0] for prompt in prompts]
        changed += sum(not np.array_equal(one, other) for one, other in zip(alone, full, strict=True))
        steps, same_steps = zip(*stepwise(exported, prompts, full, rng), strict=True)
        stepped += steps
        at_once += same_steps
        rounded += full
        wanted += trained.score(prompts)
    own = own_texts(subject, vocab=vocab, seed=seed)
    checks = {
        "row_vs_batch": Check(bound=0.0, observed=float(changed)),
        "rounding": Check(bound=BOUNDS.rounding, observed=relative(rounded, wanted)),
        "rounded_choices": Check(
            bound=BOUNDS.choices, observed=disagreement(exported.score(own), trained.score(own))
        ),
        "stepwise_vs_full": Check(
            bound=BOUNDS.arithmetic,
            observed=relative([row[None] for row in stepped], [row[None] for row in at_once]),
        ),
    }
    starts = [*samples, *random_prompts(subject, rng, rows=BATCHES[-1], vocab=vocab)]
    if subject.kind == "translator":
        starts = [Prompt(ids=prompt.ids[:1], source=prompt.source) for prompt in starts]
    for name, beam in (("greedy", 1), ("beam", BEAM)):
        together = decode(subject, exported, starts, beam=beam)
        alone_texts = [decode(subject, exported, [start], beam=beam)[0] for start in starts]
        differing = sum(one != other for one, other in zip(together, alone_texts, strict=True))
        checks[f"{name}_text_alone_vs_batch"] = Check(bound=0.0, observed=differing / len(starts))
    return {**exact, **checks}


def _exactly(subject: Subject, samples: Sequence[Prompt], *, vocab: int, seed: int) -> Mapping[str, Check]:
    """The same lowering in float32 against torch."""
    with tempfile.TemporaryDirectory() as place:
        graphs = lower(subject.trained, "fp32", subject.form)
        write_graphs(Path(place), graphs)
        strict = replace(
            subject,
            rounded=subject.trained,
            graphs={name: Path(place) / name for name in graphs},
            precision="fp32",
        )
        checks = verify_steps(strict, samples, vocab=vocab, seed=seed)
    return {f"fp32_{name}": check for name, check in checks.items()}
