"""What does a GPU give? `bench/gpu.sh` makes an environment and runs `python -m bench.gpu`.

For every language model and translator of a folder: tokens a second and how long steps take, from one row
to the most that fit, with the state left on the device and with the state fetched at every step; sentences
a second with the beams that are served; whether a row answers in a crowd what it answers alone; then answers
a second and percentiles of the service itself. Prints one table, writes bench/out/gpu.json. Exit status 3:
there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from bench.load import drive, post
from bench.rounds import OUT, Row, interleave, rows, table
from bench.sentences import english, french
from bundle.decoding import Decoder, Request, run
from bundle.errors import BundleError, VoisinError
from bundle.language import Language
from bundle.load import open_bundle
from bundle.manifest import MANIFEST, read_manifest
from bundle.session import DeviceName, Place
from bundle.stepper import Prompt
from bundle.translator import Translator
from export.server import HOST, serve

NO_GPU = 3
LEFT, FETCHED = "state on the device", "state to the host"
READ, WRITTEN = 24, 32
"""Tokens of a prompt or a source, and of an answer."""
CONNECTIONS = (1, 16, 64)
CROWD = 32
TEXTS = 128

Model = Language | Translator


def open_models(folder: Path, place: Place) -> dict[str, Model]:
    """The language models and translators of a folder, by name.

    Raises:
        BundleError: there is none, one is refused, or the device cannot be had.
    """
    found: dict[str, Model] = {}
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if read_manifest(path.parent).kind != "vectors":
            model = open_bundle(path.parent, device=place)
            assert isinstance(model, Language | Translator)
            found[model.manifest.name] = model
    if not found:
        raise BundleError(folder, "holds no language model and no translator")
    return found


def ladder(most: int) -> Iterator[int]:
    """How many rows are tried, until they do not fit: 1, 8, 64 and doubled from there."""
    yield from takewhile(lambda count: count <= most, (1, 8, *(64 << power for power in range(32))))


def measure_steps(left: Model, fetched: Model, *, rounds: int, most: int) -> list[Row]:
    """Tokens a second on both sides, steps in milliseconds, and the largest batch."""
    name, found, largest = left.manifest.name, list[Row](), 0
    for count in ladder(most):
        steps: list[float] = []
        sides: dict[str, Callable[[], float]] = {
            LEFT: partial(_pace, left, count, steps),
            FETCHED: partial(_pace, fetched, count, []),
        }
        try:
            values = interleave(sides, rounds=rounds)
        except Exception as error:  # of the runtime, when the memory of the device is full
            print(f"{name}: {count} rows do not fit: {str(error).partition(chr(10))[0]}", file=sys.stderr)
            break
        largest = count
        found += rows(f"{name}, {count} rows, greedy", values, unit="tokens/s", peer=FETCHED)
        warmed = steps[len(steps) // (rounds + 1) :]  # without the round that is not measured
        found += percentiles(f"{name}, {count} rows, a step", LEFT, warmed)
    more = " (no more were tried)" if largest and largest * 2 > most else ""
    return [*found, fact(f"{name}, largest batch{more}", LEFT, float(largest), "rows")]


def fact(about: str, side: str, value: float, unit: str) -> Row:
    """What was found once and stands beside nothing."""
    return Row(
        question=about, side=side, unit=unit, median=value, lowest=value, highest=value, peer=side, ratio=1.0
    )


def percentiles(about: str, side: str, seconds: Sequence[float]) -> list[Row]:
    """p50 and p99 in milliseconds."""
    return [
        fact(f"{about}, p{share}", side, float(np.percentile(seconds, share)) * 1e3, "ms")
        for share in (50, 99)
    ]


def _pace(model: Model, count: int, steps: list[float]) -> float:
    """Tokens a second of one full batch, prompts read included; how long each step took goes to `steps`."""
    special = model.manifest.special
    decoder = Decoder(model.stepper, eos=-1, pad=special.pad or 0, max_rows=count)
    for place, request in enumerate(_requests(model, count)):
        decoder.add(request, place)
    began = last = time.perf_counter()
    while decoder.active or decoder.waiting:
        decoder.step()
        now = time.perf_counter()
        steps.append(now - last)
        last = now
    return count * _written(model) / (last - began)


def _requests(model: Model, count: int) -> list[Request]:
    """Random tokens, as many as are always read and written."""
    special, limits = model.manifest.special, model.manifest.limits
    rng = np.random.default_rng(0)
    read = min(READ, limits.prompt_tokens)
    ids = rng.integers(4, model.tokenizer.size, (count, max(read - 1, 1)))
    texts = [tuple(int(id) for id in row) for row in ids]
    bos, eos = special.bos or 0, special.eos or 0
    translates = isinstance(model, Translator)
    prompts = [Prompt((bos,), (*text, eos)) if translates else Prompt((bos, *text)) for text in texts]
    return [Request(prompt, max_tokens=_written(model)) for prompt in prompts]


def _written(model: Model) -> int:
    context = model.manifest.limits.context_tokens
    return min(WRITTEN, context - READ) if context else WRITTEN


def measure_texts(left: Translator, fetched: Translator, *, rounds: int, most: int) -> list[Row]:
    """Sentences a second with the beam that is served."""
    texts = french(TEXTS) if left.source_language == "fr" else english(TEXTS)

    def pace(model: Translator) -> float:
        requests = [request for text in texts for request in model.job(text).requests]
        began = time.perf_counter()
        run(model.decoder(max_rows=most), requests)
        return len(texts) / (time.perf_counter() - began)

    values = interleave({LEFT: partial(pace, left), FETCHED: partial(pace, fetched)}, rounds=rounds)
    about = f"{left.manifest.name}, {len(texts)} sentences, beam {left.manifest.decoding.beam}, {most} rows"
    return rows(about, values, unit="sentences/s", peer=FETCHED)


def measure_crowd(model: Model) -> list[Row]:
    """How many rows answer otherwise among others than alone, and by how much their scores move."""
    requests = _requests(model, CROWD)
    together = [best for best, *_ in run(model.decoder(max_rows=CROWD), requests)]
    alone = [run(model.decoder(max_rows=1), [request])[0][0] for request in requests]
    pairs = list(zip(alone, together, strict=True))
    others = sum(one.ids != other.ids for one, other in pairs)
    moved = max(
        (abs(one.logprob - other.logprob) for one, other in pairs if one.ids == other.ids), default=0.0
    )
    about = f"{model.manifest.name}, alone and in a batch of {CROWD}"
    return [
        fact(f"{about}: other answers", LEFT, float(others), f"of {CROWD}"),
        fact(f"{about}: scores move by", LEFT, moved, "nats"),
    ]


@dataclass(frozen=True)
class Question:
    """What the service is asked about a model, over and over."""

    model: str
    path: str
    bodies: Sequence[Mapping[str, Any]]


def question(model: Model) -> Question:
    """Sentences to translate, or prompts to complete."""
    name = model.manifest.name
    if isinstance(model, Translator):
        source = model.source_language
        asked = {"source": source, "target": model.target_language, "model": name}
        texts = french(TEXTS) if source == "fr" else english(TEXTS)
        return Question(name, "/translate", [{"q": text, **asked} for text in texts])
    wishes = {"model": name, "max_tokens": min(WRITTEN, model.manifest.limits.new_tokens), "temperature": 0}
    return Question(name, "/v1/completions", [{"prompt": text, **wishes} for text in english(TEXTS)])


def measure_service(models: Path, asked: Sequence[Question], device: str, *, seconds: float) -> list[Row]:
    """Seconds until it is ready, then answers a second, p50 and p99."""
    settings = {"VOISIN_DEVICE": device, "VOISIN_LOG_LEVEL": "warning", "VOISIN_QUEUE_SECONDS": "600"}
    with serve(models, settings, patience=600) as server:
        found = [fact("start of the service", "until ready", server.ready_after, "s")]
        for each in asked:
            host = f"{HOST}:{server.port}"
            sent = [post(each.path, json.dumps(body), host=host) for body in each.bodies]
            drive(HOST, server.port, sent, concurrency=1, seconds=seconds)  # not measured
            for connections in CONNECTIONS:
                load = drive(HOST, server.port, sent, concurrency=connections, seconds=seconds)
                side = f"{connections} connection{'s' * (connections > 1)}"
                about = f"{each.path}, {each.model}"
                found.append(fact(about, side, load.rate, "answers/s"))
                found += percentiles(f"{about}, {side}", side, load.latencies)
    return found


def device_name(device: str) -> str:
    """What NVIDIA's driver calls the GPU, with the driver's release; on a CPU its kind."""
    if device == "cpu":
        return platform.processor() or platform.machine()
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return f"{pynvml.nvmlDeviceGetName(handle)}, driver {pynvml.nvmlSystemGetDriverVersion()}"


def save(path: Path, device: str, found: Sequence[Row]) -> None:
    """The rows with the names of the device and the runtime, as JSON."""
    report = {
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": device_name(device),
        "runtime": onnxruntime.__version__,
        "python": platform.python_version(),
        "rows": [asdict(row) for row in found],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: could not be, for the reason told; 3: there is no GPU that onnxruntime can use."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu only tries this program"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each timing (5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load on the service, each time (5)")
    parser.add_argument("--most", type=int, default=4096, help="rows at once that are tried (4096)")
    options = parser.parse_args(arguments)
    place = Place(cast(DeviceName, options.device), resident=True)
    try:
        left = open_models(options.models, place)
    except BundleError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return NO_GPU if error.reason.startswith("cuda was asked for") else 1
    found: list[Row] = []
    status = 0
    try:
        fetched = open_models(options.models, Place(place.device, resident=False))
        for name, model in left.items():
            print(f"asking: {name}", file=sys.stderr, flush=True)
            other = fetched[name]
            found += measure_steps(model, other, rounds=options.rounds, most=options.most)
            found += measure_crowd(model)
            if isinstance(model, Translator) and isinstance(other, Translator):
                found += measure_texts(model, other, rounds=options.rounds, most=min(options.most, 256))
        firsts = {type(model): question(model) for model in reversed(left.values())}
        del left, fetched, model, other  # the service needs the memory
        asked = list(firsts.values())
        found += measure_service(options.models, asked, options.device, seconds=options.seconds)
    except (VoisinError, OSError, RuntimeError) as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        status = 1  # and what was found until then is kept
    save(OUT / "gpu.json", options.device, found)
    print(table(found))
    return status


if __name__ == "__main__":
    sys.exit(main())
