"""Lowered graphs against the modules that they come from, at every precision and every shape of batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from bundle.manifest import Precision
from bundle.session import Session
from bundle.stepper import Graph, Prompt, Stepper, TensorSpec
from export.lower import lower
from export.quantize import quantize, restored, round_weights, storage
from training.models import Model, ModelConfig, Translator, build
from training.models.graph import TorchGraph

VOCAB = 61
BOUND = 1e-4  # stated in the manifest; observed differences are below 5e-6
Feeds = dict[str, NDArray[Any]]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn one-hot": ("language", {"architecture": "rnn", "hidden": 40}),
    "gru one-hot": ("language", {"architecture": "gru", "hidden": 40, "layers": 2}),
    "lstm one-hot": ("language", {"architecture": "lstm", "hidden": 40, "layers": 2}),
    "rnn embedded": ("language", {"architecture": "rnn", "hidden": 40, "layers": 2, "embedding": 36}),
    "gru tied": ("language", {"architecture": "gru", "hidden": 40, "embedding": 40, "tied": True}),
    "lstm projected": ("language", {"architecture": "lstm", "hidden": 40, "embedding": 36, "tied": True}),
    "transformer learned": (
        "language",
        {"architecture": "transformer", "hidden": 64, "layers": 2, "activation": "gelu", "tied": True},
    ),
    "transformer sinusoidal": (
        "language",
        {"architecture": "transformer", "hidden": 64, "layers": 2, "positions": "sinusoidal"},
    ),
    "lstm translator": ("translator", {"architecture": "lstm", "hidden": 64, "layers": 2, "embedding": 36}),
    "lstm translator one-hot": ("translator", {"architecture": "lstm", "hidden": 40}),
    "lstm translator without attention": (
        "translator",
        {"architecture": "lstm", "hidden": 40, "embedding": 40, "tied": True, "attention": False},
    ),
    "lstm translator both ways": (
        "translator",
        {
            "architecture": "lstm",
            "hidden": 64,
            "layers": 2,
            "embedding": 64,
            "tied": True,
            "bidirectional": True,
        },
    ),
    "gru translator both ways": (
        "translator",
        {"architecture": "gru", "hidden": 40, "layers": 2, "bidirectional": True, "attention": False},
    ),
    "rnn translator": ("translator", {"architecture": "rnn", "hidden": 40, "bidirectional": True}),
    "transformer translator": (
        "translator",
        {"architecture": "transformer", "hidden": 64, "layers": 2, "tied": True},
    ),
    "transformer translator 1+2": (
        "translator",
        {
            "architecture": "transformer",
            "hidden": 64,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "positions": "learned",
            "activation": "gelu",
        },
    ),
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def make(name: str) -> Model:
    torch.manual_seed(2)
    kind, shape = CASES[name]
    model = build(kind, ModelConfig(**shape), VOCAB).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def opened(model: Model, precision: Precision, folder: Path) -> dict[str, Session]:
    sessions = {}
    for name, graph in lower(model, precision).items():
        onnx.save(graph, folder / name)
        sessions[name.removesuffix(".onnx")] = Session(folder / name)
    return sessions


def random_feeds(graph: Graph, rows: int, rng: np.random.Generator) -> Feeds:
    """Every input at random: ragged counts and lengths, garbage wherever the contract has padding."""
    sizes = {"batch": rows, "time": 7, "past": 5, "source": 9}

    def draw(spec: TensorSpec) -> NDArray[Any]:
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes]
        if spec.dtype == "float32":
            return rng.normal(size=shape).astype(np.float32)
        if spec.name == "ids":
            return rng.integers(0, VOCAB, shape)
        low, high = {"lengths": (0, 5), "source_counts": (1, 9)}.get(spec.name, (1, shape_of(graph, sizes)))
        drawn = rng.integers(low, high + 1, shape).astype(np.int32)
        drawn[0] = high
        return drawn

    return {name: draw(spec) for name, spec in graph.inputs.items()}


def shape_of(graph: Graph, sizes: dict[str, int]) -> int:
    return sizes[str(graph.inputs["ids"].axes[1])]


def difference(reference: Graph, session: Graph, feeds: Feeds) -> float:
    """Largest |difference| over what the contract defines; the rest is padding."""
    names = list(reference.outputs)
    rows, width = feeds["ids"].shape
    counts = feeds.get("counts", np.full(rows, width, np.int32))
    ends = counts + feeds.get("lengths", np.zeros(rows, np.int32))
    worst = 0.0
    for name, expected, found in zip(
        names, reference.run(feeds, names), session.run(feeds, names), strict=True
    ):
        axes = reference.outputs[name].axes
        assert found.dtype == np.float32
        assert found.shape[0] == rows
        if axes[1] in ("time", "source", "present"):
            limit = ends if axes[1] == "present" else counts
            real = np.arange(expected.shape[1]) < limit[:, None]
            expected, found = expected[real], found[:, : expected.shape[1]][real]
        assert expected.shape == found.shape
        worst = max(worst, float(np.abs(expected - found).max()))
    return worst


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_graphs_compute_what_the_module_computes(name: str, precision: Precision, tmp_path: Path) -> None:
    model, rng = make(name), np.random.default_rng(7)
    sessions = opened(model, precision, tmp_path)
    round_weights(model, precision)
    for rows in (1, 3, 8):
        if isinstance(model, Translator):
            encoder = TorchGraph(model, "encode")
            feeds = random_feeds(encoder, rows, rng)
            assert difference(encoder, sessions["encoder"], feeds) < BOUND
        graph = TorchGraph(model)
        session = sessions["decoder" if isinstance(model, Translator) else "model"]
        assert difference(graph, session, random_feeds(graph, rows, rng)) < BOUND


@pytest.mark.parametrize("name", CASES)
def test_the_border_is_that_of_the_module(name: str, tmp_path: Path) -> None:
    model = make(name)
    sessions = opened(model, "fp32", tmp_path)
    graphs = {"model": TorchGraph(model), "decoder": TorchGraph(model)}
    if isinstance(model, Translator):
        graphs["encoder"] = TorchGraph(model, "encode")
    for stem, session in sessions.items():
        assert dict(session.inputs) == dict(graphs[stem].inputs)
        assert dict(session.outputs) == dict(graphs[stem].outputs)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["lstm one-hot", "lstm translator both ways", "transformer translator 1+2"])
def test_declared_shapes_are_true_and_the_runtime_says_nothing(
    name: str, precision: Precision, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The runtime warns on stderr where a shape at run time contradicts a declared one."""
    model, rng = make(name), np.random.default_rng(8)
    for stem, graph in lower(model, precision).items():
        onnx.checker.check_model(graph, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 2  # warnings
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        reference = TorchGraph(model, "encode" if stem.startswith("encoder") else "step")
        for rows in (1, 3):
            feeds = random_feeds(reference, rows, rng)
            found = session.run(None, feeds)
            for spec, array in zip(reference.outputs.values(), found, strict=True):
                declared = [axis for axis in spec.axes if isinstance(axis, int)]
                assert list(array.shape[-len(declared) :] if declared else []) == declared
    output = capfd.readouterr()
    assert output.err == ""
    assert output.out == ""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_a_row_alone_is_bit_for_bit_the_row_in_a_batch(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    """Through the stepper, whose padding is part of the promise: rows of different length join and leave."""
    model, rng = make(name), np.random.default_rng(9)
    sessions = opened(model, precision, tmp_path)
    stepper = Stepper(sessions.get("model") or sessions["decoder"], sessions.get("encoder"), pad=0)
    prompts = [
        Prompt(tuple(rng.integers(0, VOCAB, n).tolist()), tuple(rng.integers(0, VOCAB, m).tolist()))
        for n, m in ((1, 5), (4, 2), (3, 9), (7, 6), (2, 13))
    ]
    more = rng.integers(0, VOCAB, (9, len(prompts)))
    first, state = stepper.prefill(prompts[:3])
    second, late = stepper.prefill(prompts[3:])
    together = [np.concatenate([first, second])]
    state = stepper.join([state, late])
    for ids in more[:6]:
        logits, state = stepper.step(state, ids)
        together.append(logits)
    kept = np.array([4, 0, 2])
    state = stepper.select(state, kept)
    for ids in more[6:]:
        logits, state = stepper.step(state, ids[kept])
        together.append(logits)
    for row, prompt in enumerate(prompts):
        logits, alone = stepper.prefill([prompt])
        np.testing.assert_array_equal(logits[0], together[0][row])
        for t, ids in enumerate(more):
            logits, alone = stepper.step(alone, ids[row : row + 1])
            if t < 6:
                np.testing.assert_array_equal(logits[0], together[t + 1][row])
            elif row in kept:
                place = kept.tolist().index(row)
                np.testing.assert_array_equal(logits[0], together[t + 1][place])


@pytest.mark.parametrize("name", CASES)
def test_full_is_stepwise(name: str, tmp_path: Path) -> None:
    model, rng = make(name), np.random.default_rng(10)
    sessions = opened(model, "int8", tmp_path)
    stepper = Stepper(sessions.get("model") or sessions["decoder"], sessions.get("encoder"), pad=0)
    ids, source = rng.integers(0, VOCAB, (3, 12)), tuple(rng.integers(0, VOCAB, 6).tolist())
    whole = stepper.score([Prompt(tuple(row.tolist()), source) for row in ids])
    logits, state = stepper.prefill([Prompt(tuple(row[:1].tolist()), source) for row in ids])
    for t in range(12):
        np.testing.assert_allclose(logits, [row[t] for row in whole], atol=BOUND)
        if t < 11:
            logits, state = stepper.step(state, ids[:, t + 1])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["lstm projected", "transformer translator"])
def test_lowered_twice_is_the_same_file(name: str, precision: Precision) -> None:
    first, second = (lower(make(name), precision) for _ in range(2))
    for file in first:
        assert first[file].SerializeToString() == second[file].SerializeToString()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gru tied", "lstm projected", "transformer learned"])
def test_a_tied_matrix_is_stored_once_and_as_asked(name: str, precision: Precision) -> None:
    model = make(name)
    graph = lower(model, precision)["model.onnx"].graph
    width = model.config.embedding or model.config.hidden
    tables = [i for i in graph.initializer if sorted(i.dims) == sorted((VOCAB, width))]
    types = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}
    assert [table.data_type for table in tables] == [types[precision]]
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}
    weights = [parameter.detach().numpy() for parameter in model.parameters()]
    needed = sum(weight.size * bytes_each[storage(weight, precision)] for weight in weights)
    scales = sum(4 * len(weight) for weight in weights if storage(weight, precision) == "int8")
    names = 50 * len(graph.initializer)
    assert sum(i.ByteSize() for i in graph.initializer) < needed + scales + names + 400


def test_only_our_models_have_a_lowering() -> None:
    with pytest.raises(TypeError, match="Linear"):
        lower(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_quantised_rows_are_within_half_a_step() -> None:
    rng = np.random.default_rng(3)
    weight = (rng.normal(size=(5, 40)) * np.array([[1], [100], [1e-4], [0], [7]])).astype(np.float32)
    quantized = quantize(weight)
    assert quantized.values.dtype == np.int8
    assert np.abs(quantized.values).max(axis=1).tolist() == [127, 127, 127, 0, 127]
    error = np.abs(quantized.restored() - weight)
    assert (error <= quantized.scales[:, None] * 0.5001).all()
    np.testing.assert_array_equal(restored(weight, "int8"), quantized.restored())
    np.testing.assert_array_equal(restored(weight, "fp32"), weight)


def test_what_is_stored_how() -> None:
    assert storage(np.zeros((4, 32)), "int8") == "int8"
    assert storage(np.zeros((4, 31)), "int8") == "fp32"
    assert storage(np.zeros(64), "fp16") == "fp32"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_numbers_are_refused(precision: Precision, value: float) -> None:
    model = make("lstm one-hot")
    with torch.no_grad():
        next(model.parameters())[0, 0] = value
    with pytest.raises(ValueError, match="weight"):
        lower(model, precision)


def test_weights_too_large_for_fp16_are_refused() -> None:
    model = make("gru tied")
    with torch.no_grad():
        model.get_parameter("embedding.tokens.weight")[0, 0] = 1e5
    with pytest.raises(ValueError, match="fp16"):
        lower(model, "fp16")
