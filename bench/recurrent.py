"""How fast are recurrent models in the decoder core beside torch eager on the same weights?

Random weights, which change no speed; 64 tokens written greedily after one token, or after 32 that are read
first; one thread a side, processor time. torch keeps its state and reads a prompt at once. On some processors
it is several times as fast without oneDNN, which is its own choice, so both settings are asked. Before
anything is timed, torch and the float32 graphs have to give the same tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.rounds import Row, interleave, rows
from bundle.decoding import Decoder, Request, run
from bundle.load import open_graph
from bundle.manifest import Form, Precision
from bundle.session import Place
from bundle.stepper import Prompt, Stepper
from export.lower import lower
from export.pack import write_graphs
from training.models import build
from training.models.config import ModelConfig
from training.models.recurrent import RecurrentLanguage

PEER = "torch eager"
PAD = 0
WRITES = 64
_SECONDS = 0.25
SCALE = 3.0
"""Fresh weights settle where two tokens are equally likely, and any two orders of addition disagree."""
Texts = list[list[int]]


@dataclass(frozen=True)
class Shape:
    """A model."""

    name: str
    config: ModelConfig
    vocab: int


def lstm(layers: int, hidden: int) -> ModelConfig:
    """A character model."""
    return ModelConfig(architecture="lstm", layers=layers, hidden=hidden, embedding=64)


SHAPES = (
    Shape("LSTM 2 x 512", lstm(2, 512), 100),
    Shape("as chars-en, 1 x 640", lstm(1, 640), 120),
)
ASKED = ((1, 1), (1, 32), (16, 32))
"""(texts at once, tokens read of each)."""


def measure(_: Path, *, rounds: int = 5, shapes: Sequence[Shape] = SHAPES) -> list[Row]:
    """Tokens written a second of each shape, alone and in a batch."""
    torch.set_num_threads(1)
    found: list[Row] = []
    for shape in shapes:
        torch.manual_seed(0)
        model = build("language", shape.config, shape.vocab).eval()
        assert isinstance(model, RecurrentLanguage)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(SCALE)
        with tempfile.TemporaryDirectory() as place:
            sides = _sides(model, Path(place))
            for count, reads in ASKED:
                prompts = _prompts(shape, count, reads)
                wanted = sides[PEER](prompts)
                if sides["voisin fast fp32"](prompts) != wanted:
                    raise AssertionError(f"{shape.name}: torch and the graphs do not give the same tokens")
                timed: dict[str, Callable[[], float]] = {
                    name: partial(_pace, side, prompts) for name, side in sides.items()
                }
                found += rows(
                    f"{shape.name}: {count} x {WRITES} after {reads}",
                    interleave(timed, rounds=rounds),
                    unit="tokens/s",
                    peer=PEER,
                )
    return found


def _sides(
    model: RecurrentLanguage, folder: Path
) -> Mapping[str, Callable[[Sequence[Sequence[int]]], Texts]]:
    kinds: tuple[tuple[Precision, Form], ...] = (("int8", "plain"), ("fp32", "fast"), ("int8", "fast"))
    return {
        PEER: partial(_eager, model, True),
        f"{PEER}, without oneDNN": partial(_eager, model, False),
        **{f"voisin {form} {precision}": _ours(model, folder, precision, form) for precision, form in kinds},
        "voisin kernels int8": _ours(model, folder, "int8", "fast", kernels=True),
    }


def _pace(side: Callable[[Sequence[Sequence[int]]], Texts], prompts: Sequence[Sequence[int]]) -> float:
    """Tokens a second, for so long that it does not matter what the other side has left in the caches."""
    written, started = 0, time.process_time()
    while (seconds := time.process_time() - started) < _SECONDS:
        written += sum(len(text) for text in side(prompts))
    return written / seconds


def _prompts(shape: Shape, count: int, reads: int) -> list[list[int]]:
    drawn: list[list[int]] = np.random.default_rng(0).integers(1, shape.vocab, (count, reads)).tolist()
    return drawn


def _ours(
    model: RecurrentLanguage, folder: Path, precision: Precision, form: Form, *, kernels: bool = False
) -> Callable[[Sequence[Sequence[int]]], Texts]:
    """The decoder core over an exported graph."""
    place = folder / f"{precision}-{form}-{kernels}"
    place.mkdir()
    write_graphs(place, lower(model, precision, form))
    stepper = Stepper(open_graph(place / "model.onnx", device=Place(kernels=kernels)), pad=PAD)

    def decode(prompts: Sequence[Sequence[int]]) -> Texts:
        decoder = Decoder(stepper, eos=-1, pad=PAD)  # no token ends a text
        requests = [Request(Prompt(tuple(prompt)), max_tokens=WRITES) for prompt in prompts]
        return [list(best.ids) for [best] in run(decoder, requests)]

    return decode


def _eager(model: RecurrentLanguage, onednn: bool, prompts: Sequence[Sequence[int]]) -> Texts:
    """torch alone: a loop around the module, its state kept."""
    before = torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    torch.backends.mkldnn.enabled = onednn  # type: ignore[attr-defined]
    try:
        with torch.inference_mode():
            logits, state = model(torch.tensor(prompts))
            chosen = [_choice(logits)]
            for _ in range(WRITES - 1):
                logits, state = model(chosen[-1], state)
                chosen.append(_choice(logits))
    finally:
        torch.backends.mkldnn.enabled = before  # type: ignore[attr-defined]
    texts: Texts = torch.cat(chosen, dim=1).tolist()
    return texts


def _choice(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row but padding, [rows, 1]."""
    last = logits[:, -1]
    last[:, PAD] = -torch.inf
    return last.argmax(-1, keepdim=True)
