"""How fast is the decoder core beside CTranslate2 on the same weights?

Random weights and answers of a fixed length, then a bundle that ships and sentences, whose answers end where
the model ends them; one thread a side, both pinned to the cores that the command was given.
Seconds are processor time, which a busy machine stretches less than the clock.
Before anything is timed, the float32 graphs and CTranslate2's float32 model have to give the same tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ctranslate2
import numpy as np
import torch

from bench import ctranslate2_peer as peer
from bench.rounds import Row, interleave, rows
from bench.sentences import french
from bundle.decoding import Decoder, Request, run
from bundle.load import open_bundle, open_graph
from bundle.manifest import Form, Precision
from bundle.session import Place
from bundle.stepper import Prompt, Stepper
from bundle.translator import Translator
from export.lower import lower
from export.pack import write_graphs
from export.unpack import unpack
from training.checkpoint import load_model
from training.models import build
from training.models.config import ModelConfig
from training.models.transformer import TransformerLanguage, TransformerTranslator

PEER = "CTranslate2 int8"
EOS, PAD = 2, 0
Texts = list[list[int]]
_SECONDS = 0.25


@dataclass(frozen=True)
class Shape:
    """A model, and what is asked of it: tokens read and written."""

    name: str
    kind: str
    config: ModelConfig
    vocab: int
    reads: int
    writes: int
    asked: tuple[tuple[int, int], ...]
    """(texts at once, width of the beam)."""
    bundle: str = ""
    """A translator of the models folder, whose weights and sentences take the place of random ones."""


def transformer(encoder: int, decoder: int, hidden: int, heads: int) -> ModelConfig:
    """A shape whose output has a matrix of its own: random tied weights repeat one token for ever."""
    return ModelConfig(
        architecture="transformer",
        encoder_layers=encoder,
        decoder_layers=decoder,
        hidden=hidden,
        heads=heads,
        positions="sinusoidal",
    )


ALL = ((1, 1), (32, 1), (1, 4), (32, 4))
SHAPES = (
    Shape("Transformer base 6+6, 32k", "translator", transformer(6, 6, 512, 8), 32_000, 25, 25, ALL),
    Shape("as fr-en, 5+2 of 192, 8k", "translator", transformer(5, 2, 192, 6), 8_000, 25, 25, ALL),
    Shape(
        "completion 6 x 512, 16k", "language", transformer(0, 6, 512, 8), 16_000, 32, 64, ((1, 1), (16, 1))
    ),
    Shape("fr-en, sentences", "translator", transformer(5, 2, 192, 6), 8_000, 80, 120, ALL, bundle="fr-en"),
)


def measure(models: Path, *, rounds: int = 5, shapes: Sequence[Shape] = SHAPES) -> list[Row]:
    """Texts a second of each shape."""
    torch.set_num_threads(1)
    found: list[Row] = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as place:
            found += _measure(shape, models, Path(place), rounds)
    return found


def _measure(shape: Shape, models: Path, folder: Path, rounds: int) -> list[Row]:
    torch.manual_seed(0)
    if shape.bundle:
        unpack(models / shape.bundle, folder / "run")
        found_model, _ = load_model(folder / "run")
        model: object = found_model.eval()
        prompts = _sentences(models / shape.bundle)
    else:
        model = build(shape.kind, shape.config, shape.vocab).eval()  # type: ignore[arg-type]
        prompts = _prompts(shape)
    assert isinstance(model, TransformerLanguage | TransformerTranslator)
    theirs, ours = Theirs(model, shape, folder, "float32"), Ours(model, shape, folder, "fp32", "fast")
    for beam in (1, 4):
        if theirs.decode(prompts[:1], beam) != ours.decode(prompts[:1], beam):
            raise AssertionError(f"{shape.name}: the engines do not give the same tokens (beam {beam})")
    sides: dict[str, Theirs | Ours] = {
        PEER: Theirs(model, shape, folder, "int8"),
        "voisin kernels int8": Ours(model, shape, folder, "int8", "fast"),
        "voisin fast int8": Ours(model, shape, folder, "int8", "fast", kernels=False),
        "voisin plain int8": Ours(model, shape, folder, "int8", "plain"),
    }
    found: list[Row] = []
    for count, beam in shape.asked:
        timed: dict[str, Callable[[], float]] = {
            name: partial(_pace, side, prompts, count, beam) for name, side in sides.items()
        }
        question = f"{shape.name}: {count} x {'greedy' if beam == 1 else f'beam {beam}'}"
        found += rows(question, interleave(timed, rounds=rounds), unit="texts/s", peer=PEER)
    return found


def _pace(side: Theirs | Ours, prompts: Sequence[Prompt], count: int, beam: int) -> float:
    """Texts a second, `count` at once, one batch after the other for so long that it does not matter what the
    other side has left in the caches."""
    batches = [prompts[first : first + count] for first in range(0, len(prompts), count)]
    answered, started = 0, time.process_time()
    while True:
        for batch in batches:
            found = side.decode(batch, beam)
            assert len(found) == len(batch)
            answered += len(batch)
            seconds = time.process_time() - started
            if seconds > _SECONDS:
                return answered / seconds


def _prompts(shape: Shape) -> list[Prompt]:
    rng = np.random.default_rng(0)
    texts = [[int(id) for id in rng.integers(4, shape.vocab, shape.reads - 1)] for _ in range(32)]
    if shape.kind == "translator":
        return [Prompt((1,), (*text, EOS)) for text in texts]
    return [Prompt((1, *text)) for text in texts]


def _sentences(bundle: Path) -> list[Prompt]:
    model = open_bundle(bundle)
    assert isinstance(model, Translator)
    return [request.prompt for text in french(32) for request in model.job(text).requests]


class Ours:
    """The decoder core over exported graphs."""

    def __init__(
        self,
        model: TransformerLanguage | TransformerTranslator,
        shape: Shape,
        folder: Path,
        precision: Precision,
        form: Form,
        *,
        kernels: bool = True,
    ) -> None:
        place = folder / f"{precision}-{form}-{kernels}"
        place.mkdir()
        graphs = lower(model, precision, form)
        write_graphs(place, graphs)
        sessions = {name: open_graph(place / name, device=Place(kernels=kernels)) for name in graphs}
        step = sessions.get("decoder.onnx") or sessions["model.onnx"]
        self._stepper = Stepper(step, sessions.get("encoder.onnx"), pad=PAD)
        self._writes = shape.writes
        self._ends = {"eos": EOS} if shape.bundle else {"eos": -1, "banned": (EOS,)}

    def decode(self, prompts: Sequence[Prompt], beam: int) -> Texts:
        """The best answer to each, as long as asked where no token may end it."""
        decoder = Decoder(self._stepper, pad=PAD, max_rows=1024, **self._ends)  # type: ignore[arg-type]
        requests = [Request(prompt, max_tokens=self._writes, beam=beam) for prompt in prompts]
        return [list(best.ids) for best, *_ in run(decoder, requests)]


class Theirs:
    """CTranslate2 on one thread, at the best of its settings on the processors measured: its own choice."""

    def __init__(
        self,
        model: TransformerLanguage | TransformerTranslator,
        shape: Shape,
        folder: Path,
        quantization: str,
    ) -> None:
        place = folder / f"ctranslate2-{quantization}"
        peer.write(model, place, quantization=quantization)  # type: ignore[arg-type]
        self._names = peer.tokens(shape.vocab)
        self._ids = {name: id for id, name in enumerate(self._names)}
        self._writes = shape.writes
        self._least = 1 if shape.bundle else shape.writes
        self._forbidden = [[name] for name in (peer.SPECIAL[0], *(() if shape.bundle else peer.SPECIAL[2:3]))]
        self._translates = shape.kind == "translator"
        kind = ctranslate2.Translator if self._translates else ctranslate2.Generator
        self._engine = kind(str(place), device="cpu", inter_threads=1, intra_threads=1)

    def decode(self, prompts: Sequence[Prompt], beam: int) -> Texts:
        """The best answer to each, as long as asked where no token may end it."""
        if self._translates:
            found = self._engine.translate_batch(
                [[self._names[id] for id in prompt.source] for prompt in prompts],
                beam_size=beam,
                max_decoding_length=self._writes,
                min_decoding_length=self._least,
                suppress_sequences=self._forbidden,
                max_batch_size=0,
            )
            texts = [each.hypotheses[0] for each in found]
        else:
            found = self._engine.generate_batch(
                [[self._names[id] for id in prompt.ids] for prompt in prompts],
                beam_size=beam,
                max_length=self._writes,
                min_length=self._least,
                include_prompt_in_result=False,
                suppress_sequences=self._forbidden,
                max_batch_size=0,
            )
            texts = [each.sequences[0] for each in found]
        return [[self._ids[name] for name in text] for text in texts]
