"""Exported equals trained: what a graph must prove before it is packed.

Rounding weights to int8 or fp16 changes a model; lowering it must not. The two are told apart: the graph is
held against torch **with the same rounded weights**, strictly, and the rounded weights are held against the
trained ones, within the loss that the precision is allowed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import astuple
from numpy.typing import NDArray

from bundle.decoding import Decoder, Request, run
from bundle.manifest import Check, Form, Limits, Special
from bundle.session import Session
from bundle.stepper import Array, Graph, Prompt, Stepper, TensorSpec
from export import ExportError
from export.lower import borders
from training.models import Model
from training.models.graph import TorchGraph

Logits = NDArray[np.float32]
Choices = list[tuple[int, ...]]
"""Ids of each choice of one prompt, the best first."""

BATCHES = (1, 3, 8)
"""Batch sizes at which full, stepwise and torch logits are compared."""

LONGEST = 24
"""Longest random prompt or source, in tokens."""

NEW_TOKENS = 24
"""Length of the texts that are decoded twice and compared."""

TEXTS = 24
"""Texts of the model's own that are judged twice, before and after rounding."""

BEAM = 4

SHAKE = 1e-5
SHAKES = 8
"""A text that torch itself no longer writes when its logits are shaken by so little, in one of so many tries,
hangs on a tie: a difference there is nobody's fault."""


_COMMON = 16.0
"""Up to this size a difference of logits is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a precision may differ by."""

    arithmetic: float
    """Largest difference of a logit between two ways of computing with the same weights; see `difference`."""
    rounding: float
    """Root mean square difference to the trained model's logits, in standard deviations of those logits."""
    choices: float
    """Share of positions at which rounding may change the likeliest next token."""


BOUNDS: Mapping[str, Bounds] = {
    "fp32": Bounds(arithmetic=1e-4, rounding=0.0, choices=0.0),
    "fp16": Bounds(arithmetic=1e-4, rounding=0.01, choices=0.02),
    "int8": Bounds(arithmetic=1e-4, rounding=0.15, choices=0.1),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A step model in its three forms: what was trained, what is stored, and the graphs that hold that."""

    kind: str
    """`language` or `translator`."""
    trained: Model
    rounded: Model
    """`trained` with the weights rounded as the graphs store them."""
    graphs: Mapping[str, Path]
    """File name -> path."""
    precision: str
    special: Special
    limits: Limits
    form: Form = "plain"

    @property
    def pad(self) -> int:
        return self.special.pad or 0

    @property
    def bos(self) -> int:
        return _known(self.special.bos)

    @property
    def eos(self) -> int:
        return _known(self.special.eos)

    def exported(self) -> Stepper:
        """The graphs, driven by the stepper that serves them."""
        if self.kind == "translator":
            return self._stepper(Session(self.graphs["decoder.onnx"]), Session(self.graphs["encoder.onnx"]))
        return self._stepper(Session(self.graphs["model.onnx"]), None)

    def torch(self, module: Model, step: Graph | None = None) -> Stepper:
        """A module, driven by the same stepper; `step` stands in for its step form."""
        encoder = TorchGraph(module, "encode") if self.kind == "translator" else None
        return self._stepper(step or TorchGraph(module, "step"), encoder)

    def _stepper(self, step: Graph, encoder: Graph | None) -> Stepper:
        return Stepper(step, encoder, pad=self.pad, capacity=self.limits.context_tokens)


def _known(id: int | None) -> int:
    if id is None:
        raise ExportError("the tokenizer lacks <bos> or <eos>")
    return id


def failures(checks: Mapping[str, Check]) -> list[str]:
    """The checks whose observed value is over the bound, or not a number, in words."""
    return [
        f"{name} {check.observed:.3g} is over its bound {check.bound:.3g}"
        for name, check in sorted(checks.items())
        if not check.observed <= check.bound
    ]


def require(checks: Mapping[str, Check]) -> None:
    """Raises ExportError that names every failed check."""
    if failed := failures(checks):
        raise ExportError("verification failed: " + "; ".join(failed))


def verify_steps(
    subject: Subject, samples: Sequence[Prompt], *, vocab: int, seed: int = 0
) -> dict[str, Check]:
    """The checks of a language model or a translator; see `require` for judging them.

    Where logits are over their bounds, texts are not decoded: they would say no more. Graphs that multiply
    whole numbers are `export.verify_whole`'s.

    samples: real prompts, whose decoded texts are compared beside those of random ones.
    Raises ExportError where the graphs do not declare the axes of the contract.
    """
    declared(subject)
    bounds = BOUNDS[subject.precision]
    exported, rounded, trained = (
        subject.exported(),
        subject.torch(subject.rounded),
        subject.torch(subject.trained),
    )
    rng = np.random.default_rng(seed)
    observed: dict[str, list[float]] = defaultdict(list)
    rounded_logits: list[Logits] = []
    trained_logits: list[Logits] = []

    batches = [random_prompts(subject, rng, rows=rows, vocab=vocab) for rows in BATCHES]
    for prompts in [*batches, list(samples)] if samples else batches:
        full, reference, original = exported.score(prompts), rounded.score(prompts), trained.score(prompts)
        alone = [exported.score([prompt])[0] for prompt in prompts]
        steps, same_steps = zip(*stepwise(exported, prompts, full, rng), strict=True)
        observed["full_vs_torch"].append(difference(full, reference))
        observed["stepwise_vs_full"].append(difference(steps, same_steps))
        observed["training_vs_step"].append(difference(training_form(subject, prompts), original))
        observed["row_vs_batch"].append(difference(alone, full))
        rounded_logits += reference
        trained_logits += original
    checks = {
        # numpy's maximum keeps a NaN, Python's may lose it
        name: Check(bound=bounds.arithmetic, observed=float(np.max(values)))
        for name, values in observed.items()
    }
    checks["rounding"] = Check(bound=bounds.rounding, observed=relative(rounded_logits, trained_logits))
    if failures(checks):  # perhaps of numbers that are none, which write no texts
        return checks
    own = own_texts(subject, vocab=vocab, seed=seed)
    checks["rounded_choices"] = Check(
        bound=bounds.choices, observed=disagreement(rounded.score(own), trained.score(own))
    )
    if failures(checks):
        return checks
    starts = [*samples, *random_prompts(subject, rng, rows=BATCHES[-1], vocab=vocab)]
    if subject.kind == "translator":
        starts = [Prompt(ids=prompt.ids[:1], source=prompt.source) for prompt in starts]
    return checks | text_checks(subject, starts)


def declared(subject: Subject) -> None:
    """Raises ExportError where a graph's border is not what docs/bundle-format.md and the module say."""
    for name, border in borders(subject.trained, subject.form).items():
        session = Session(subject.graphs[name])
        for side, wanted in zip(("inputs", "outputs"), border, strict=True):
            found: Mapping[str, TensorSpec] = getattr(session, side)
            for spec in wanted.values():
                if found.get(spec.name) != spec:
                    raise ExportError(f"{name}: {side} declare {found.get(spec.name)}, should be {spec}")
            for spec in found.values():
                if spec.axes[:1] != ("batch",):
                    raise ExportError(f"{name}: the first axis of {spec.name} is {spec.axes[:1]}, not batch")


def text_checks(subject: Subject, starts: Sequence[Prompt]) -> dict[str, Check]:
    """Greedy and beam texts: of the graphs against torch's, and of prompts alone against all in a batch."""
    exported, rounded = subject.exported(), subject.torch(subject.rounded)
    checks = {}
    for name, beam in (("greedy", 1), ("beam", BEAM)):
        together = decode(subject, exported, starts, beam=beam)
        alone = [decode(subject, exported, [start], beam=beam)[0] for start in starts]
        reference = decode(subject, rounded, starts, beam=beam)
        for check, others in (("text_vs_torch", reference), ("text_alone_vs_batch", alone)):
            differing = [at for at, texts in enumerate(together) if texts != others[at]]
            firm = untied(
                subject, [starts[at] for at in differing], [reference[at] for at in differing], beam=beam
            )
            checks[f"{name}_{check}"] = Check(bound=0.0, observed=firm / len(starts))
    return checks


class Shaken(TorchGraph):
    """A module whose logits are a little off, differently at each run."""

    def __init__(self, module: Model, seed: int) -> None:
        super().__init__(module, "step")
        self._rng = np.random.default_rng(seed)

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        outputs = super().run(feeds, fetches)
        return [
            output + self._rng.uniform(-SHAKE, SHAKE, output.shape).astype(np.float32)
            if name == "logits"
            else output
            for name, output in zip(fetches, outputs, strict=True)
        ]


def untied(subject: Subject, starts: Sequence[Prompt], texts: Sequence[Choices], *, beam: int) -> int:
    """How many of torch's own `texts` after `starts` do not hang on a tie."""
    left = list(zip(starts, texts, strict=True))
    for seed in range(SHAKES):
        if not left:
            break
        shaken = subject.torch(subject.rounded, Shaken(subject.rounded, seed))
        again = decode(subject, shaken, [start for start, _ in left], beam=beam)
        left = [one for one, other in zip(left, again, strict=True) if one[1] == other]
    return len(left)


def random_prompts(subject: Subject, rng: np.random.Generator, *, rows: int, vocab: int) -> list[Prompt]:
    """Ragged prompts of ordinary tokens, one of the longest and, beyond one row, one of the least length."""
    limits = subject.limits
    ordinary = np.setdiff1d(np.arange(vocab), [id for id in astuple(subject.special) if id is not None])
    longest = min(LONGEST, limits.prompt_tokens)
    if limits.context_tokens:
        # room is left for the texts that are decoded from these prompts
        longest = max(1, min(longest, limits.context_tokens // 2))
    lengths = [longest, 1, *rng.integers(1, longest + 1, size=rows)][:rows]

    def words(count: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.choice(ordinary, size=count))

    prompts = []
    for length in lengths:
        source = (
            (*words(int(rng.integers(1, longest + 1))), subject.eos) if subject.kind == "translator" else ()
        )
        prompts.append(Prompt(ids=(subject.bos, *words(length - 1)), source=source))
    return prompts


def own_texts(subject: Subject, *, vocab: int, seed: int) -> list[Prompt]:
    """What the trained model itself writes, drawn at temperature 1.

    Whether rounding changes the likeliest token is asked of these. On random tokens a good model of letters
    is lost, and what it finds likeliest there hangs on a hair, rounded or not.
    """
    rng = np.random.default_rng(seed)
    prompts = random_prompts(subject, rng, rows=TEXTS, vocab=vocab)
    starts = [Prompt(prompt.ids[:1], prompt.source) for prompt in prompts]
    texts = decode(subject, subject.torch(subject.trained), starts, beam=1, temperature=1.0)
    return [Prompt((*start.ids, *ids), start.source) for start, (ids,) in zip(starts, texts, strict=True)]


def stepwise(
    stepper: Stepper, prompts: Sequence[Prompt], full: Sequence[Logits], rng: np.random.Generator
) -> list[tuple[Logits, Logits]]:
    """Each prompt prefilled up to a place of its own, then fed token by token: pairs (stepwise, full)."""
    cuts = [int(rng.integers(1, len(prompt.ids) + 1)) for prompt in prompts]
    heads = [Prompt(ids=p.ids[:cut], source=p.source) for p, cut in zip(prompts, cuts, strict=True)]
    logits, state = stepper.prefill(heads)
    pairs = [(logits[row], full[row][cut - 1]) for row, cut in enumerate(cuts)]
    for step in range(max(len(p.ids) - cut for p, cut in zip(prompts, cuts, strict=True))):
        # a row that has come to its end leaves, as in a running batch
        going = [row for row, p in enumerate(prompts) if cuts[row] + step < len(p.ids)]
        before = [row for row, p in enumerate(prompts) if step == 0 or cuts[row] + step - 1 < len(p.ids)]
        state = stepper.select(state, np.asarray([before.index(row) for row in going], np.int64))
        ids = np.asarray([prompts[row].ids[cuts[row] + step] for row in going], np.int64)
        logits, state = stepper.step(state, ids)
        pairs += [(logits[at], full[row][cuts[row] + step]) for at, row in enumerate(going)]
    return pairs


def training_form(subject: Subject, prompts: Sequence[Prompt]) -> list[Logits]:
    """Teacher-forced logits of the trained module by its training forward, float32 [len(ids), vocab] each."""
    ids, counts = _padded([prompt.ids for prompt in prompts], subject.pad)
    with torch.inference_mode():
        if subject.kind == "translator":
            source, source_counts = _padded([prompt.source for prompt in prompts], subject.pad)
            logits = subject.trained(source, source_counts, ids)
        else:
            logits, _ = subject.trained(ids, None, counts)
    return [row[: len(p.ids)].numpy() for row, p in zip(logits, prompts, strict=True)]


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    counts = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    ids = torch.full((len(rows), max(len(row) for row in rows)), pad, dtype=torch.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return ids, counts


def decode(
    subject: Subject, stepper: Stepper, starts: Sequence[Prompt], *, beam: int, temperature: float = 0.0
) -> list[Choices]:
    """Texts (ids) of each prompt by the decoder core, all in one batch; `beam` of them by beam search."""
    limits = subject.limits
    requests = []
    for seed, start in enumerate(starts):
        room = limits.context_tokens - len(start.ids) if limits.context_tokens else NEW_TOKENS
        most = max(1, min(NEW_TOKENS, limits.new_tokens, room))
        requests.append(
            Request(start, max_tokens=most, n=beam, beam=beam, temperature=temperature, seed=seed)
        )
    decoder = Decoder(stepper, eos=subject.eos, pad=subject.pad)
    return [[tuple(choice.ids) for choice in choices] for choices in run(decoder, requests)]


def difference(got: Sequence[Logits], want: Sequence[Logits]) -> float:
    """Largest absolute difference; NaN where a value is not finite.

    Where logits are beyond 16, as those of a model trained for long, so much less: float32 has 24 bits
    whatever the size of a number, and steps in its own last place are nobody's fault.
    """
    size = float(np.max([np.max(np.abs(b)) for b in want]))
    if not math.isfinite(size):
        return math.nan
    largest = float(np.max([np.max(np.abs(a - b)) for a, b in zip(got, want, strict=True)]))
    return largest * _COMMON / max(size, _COMMON)


def relative(got: Sequence[Logits], want: Sequence[Logits]) -> float:
    """Root mean square difference in standard deviations of `want`."""
    a, b = np.concatenate(list(got)), np.concatenate(list(want))
    error, spread = float(np.sqrt(np.mean((a - b) ** 2))), float(np.std(b))
    return error / spread if error else 0.0


def disagreement(got: Sequence[Logits], want: Sequence[Logits]) -> float:
    """Share of positions whose likeliest token differs."""
    a, b = np.concatenate(list(got)), np.concatenate(list(want))
    return float(np.mean(a.argmax(-1) != b.argmax(-1)))
