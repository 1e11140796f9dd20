"""Does the same request give the same bytes alone and in a crowd? `python -m bench.invariance [--requests N]`

Greedy, sampled and beam requests, constrained or not, over every language model and translator of the models
folder and, with random weights, over the fast form of a Transformer, run by our kernels where they can be and
by onnxruntime; each is answered alone, and again among others that join a running batch at random, some of
which are cancelled. Prints how many differ, in a token or in a bit of a log-probability; exit code 1 where
any does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bundle.decoding import Decoder, Finished, Request, run
from bundle.language import Language
from bundle.load import open_bundle, open_graph
from bundle.manifest import MANIFEST
from bundle.session import Place
from bundle.stepper import Prompt, Stepper
from bundle.translator import Translator
from export.lower import lower
from export.pack import write_graphs
from training.models import build
from training.models.config import ModelConfig

MakeDecoder = Callable[[int], Decoder]
EOS = 2
Answers = list[tuple[tuple[int, ...], float]]


def requests(count: int, seed: int, *, vocab: int, translates: bool, bos: int, eos: int) -> list[Request]:
    """Requests of every kind, of random tokens."""
    rng = np.random.default_rng(seed)
    even = np.arange(vocab) % 2 == 0
    kinds: list[dict[str, object]] = [
        {},
        {"beam": 4, "n": 2},
        {"temperature": 0.9, "top_p": 0.95, "n": 2},
        {"beam": 2},
        {"temperature": 0.7, "top_k": 20},
        {"allow": lambda ids: even},
    ]

    def words(least: int, most: int) -> tuple[int, ...]:
        return tuple(int(id) for id in rng.integers(4, vocab, rng.integers(least, most)))

    return [
        Request(
            Prompt((bos,), (*words(1, 30), eos)) if translates else Prompt((bos, *words(0, 20))),
            max_tokens=int(rng.integers(1, 25)),
            seed=int(rng.integers(2**31)),
            **kinds[place % len(kinds)],  # type: ignore[arg-type]
        )
        for place in range(count)
    ]


def differing(make: MakeDecoder, asked: Sequence[Request], seed: int) -> int:
    """How many requests are answered otherwise in a crowd than alone."""
    alone = [_answers(run(make(64), [each])[0]) for each in asked]
    rng = np.random.default_rng(seed)
    crowd = make(int(rng.integers(8, 64)))
    found: dict[int, list[Finished]] = {place: [] for place in range(len(asked))}
    waiting = list(enumerate(asked))
    while waiting or crowd.active or crowd.waiting:
        for _ in range(int(rng.integers(0, 4))):
            if waiting:
                place, request = waiting.pop(0)
                crowd.add(request, place)
        if rng.random() < 0.05:
            crowd.add(asked[0], "left")
        if rng.random() < 0.05:
            crowd.cancel("left")
        for event in crowd.step():
            if isinstance(event, Finished) and isinstance(event.tag, int):
                found[event.tag].append(event)
    return sum(_answers(found[place]) != expected for place, expected in enumerate(alone))


def _answers(found: Sequence[Finished]) -> Answers:
    return [(each.ids, each.logprob) for each in sorted(found, key=lambda each: each.choice)]


def fast(folder: Path, *, kernels: bool) -> MakeDecoder:
    """Decoders over the fast int8 form of a translator with random weights."""
    folder.mkdir()
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="transformer", encoder_layers=2, decoder_layers=2, hidden=128, positions="sinusoidal"
    )
    graphs = lower(build("translator", config, 2000).eval(), "int8", "fast")
    write_graphs(folder, graphs)
    step, encoder = (
        open_graph(folder / f"{name}.onnx", device=Place(kernels=kernels)) for name in ("decoder", "encoder")
    )
    stepper = Stepper(step, encoder, pad=0)
    return lambda rows: Decoder(stepper, eos=EOS, pad=0, max_rows=rows, banned=(0, 1, 3))


def main(arguments: Sequence[str] | None = None) -> int:
    """0: none differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.invariance", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    parser.add_argument("--requests", type=int, default=10_000, help="in all (10,000)")
    parser.add_argument("--crowd", type=int, default=50, help="requests of one running batch (50)")
    options = parser.parse_args(arguments)
    total = 0
    with tempfile.TemporaryDirectory() as place:
        subjects: dict[str, tuple[MakeDecoder, dict[str, int | bool]]] = {
            f"fast int8, {name}": (
                fast(Path(place) / name, kernels=name == "kernels"),
                {"vocab": 2000, "translates": True, "bos": 1, "eos": EOS},
            )
            for name in ("kernels", "onnxruntime")
        }
        for path in sorted(options.models.glob(f"*/{MANIFEST}")):
            model = open_bundle(path.parent)
            if isinstance(model, Language | Translator):
                special = model.manifest.special
                subjects[model.manifest.name] = (
                    lambda rows, model=model: model.decoder(max_rows=rows),  # type: ignore[misc]
                    {
                        "vocab": model.tokenizer.size,
                        "translates": isinstance(model, Translator),
                        "bos": special.bos or 0,
                        "eos": special.eos or 0,
                    },
                )
        share = -(-options.requests // len(subjects))
        for name, (make, about) in subjects.items():
            count = 0
            for seed in range(-(-share // options.crowd)):
                asked = requests(min(options.crowd, share - seed * options.crowd), seed, **about)  # type: ignore[arg-type]
                count += differing(make, asked, seed)
            print(f"{name}: {count} of {share} requests differ", flush=True)
            total += count
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
