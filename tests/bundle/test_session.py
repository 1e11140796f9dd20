"""What onnxruntime makes of a graph, and what it says when it cannot."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle import session
from bundle.errors import BundleError
from bundle.session import Place, Session, may_use_gpu
from bundle.stepper import TensorSpec


def _write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def _info(name: str, axes: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, axes)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    weights = [numpy_helper.from_array(np.eye(3, dtype=np.float32) * 2, "w")]
    return _write(
        tmp_path / "plain.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        [_info("x", ["batch", 3])],
        [_info("y", ["batch", 3]), _info("z", ["batch", 3])],
        weights,
    )


def test_borders_and_answers(plain: Path) -> None:
    graph = Session(plain)
    assert graph.inputs == {"x": TensorSpec("x", "float32", ("batch", 3))}
    assert graph.outputs["z"].axes == ("batch", 3)
    assert graph.provider == "CPUExecutionProvider"
    z, y = graph.run({"x": np.ones((2, 3), np.float32)}, ["z", "y"])
    np.testing.assert_array_equal(z, -y)
    assert y.flags.writeable
    assert len(graph.run({"x": np.ones((1, 3), np.float32)}, ["y"])) == 1
    part = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::2]  # views of any stride may be fed
    np.testing.assert_array_equal(graph.run({"x": part}, ["y"])[0], 2 * part)


def test_stored_int8_is_computed_as_fp32(tmp_path: Path) -> None:
    """The pair of weight and scale becomes one fp32 weight at load; no quantised kernel is left.

    Such kernels quantise the activations with a scale for the whole batch, so a row would depend on others.
    """
    rng = np.random.default_rng(0)
    stored = rng.integers(-127, 128, (32, 16), dtype=np.int8)
    scale = rng.uniform(0.01, 0.02, 16).astype(np.float32)
    weights = [
        numpy_helper.from_array(stored, "q"),
        numpy_helper.from_array(scale, "s"),
        numpy_helper.from_array(np.zeros(16, np.int8), "zero"),
    ]
    path = _write(
        tmp_path / "int8.onnx",
        [
            helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["w"], axis=1),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [_info("x", ["batch", 32])],
        [_info("y", ["batch", 16])],
        weights,
    )
    options = session._options(1)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert nodes == ["MatMul"]

    rows = rng.normal(size=(5, 32)).astype(np.float32)
    rows[3] *= 1000  # a neighbour that would spoil a scale shared by the batch
    graph = Session(path)
    [together] = graph.run({"x": rows}, ["y"])
    np.testing.assert_allclose(together, rows @ (stored * scale), rtol=1e-4, atol=1e-3)
    for place in range(5):
        [alone] = graph.run({"x": rows[place : place + 1]}, ["y"])
        np.testing.assert_allclose(alone[0], together[place], rtol=1e-5, atol=1e-5)


def test_files_that_cannot_be_opened(plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw = plain.read_bytes()
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"not a graph", raw[: len(raw) // 2]):
        broken.write_bytes(content)
        with pytest.raises(BundleError, match=r"broken\.onnx: cannot be opened"):
            Session(broken)
    with pytest.raises(BundleError, match=r"absent\.onnx: cannot be opened"):
        Session(tmp_path / "absent.onnx")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_wrong_feeds_raise_and_print_nothing(plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = Session(plain)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        graph.run({"x": np.ones((2, 4), np.float32)}, ["y"])
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_types_and_axes_that_the_contract_lacks(tmp_path: Path) -> None:
    double = _write(
        tmp_path / "double.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [_info("x", ["batch"], TensorProto.DOUBLE)],
        [_info("y", ["batch"], TensorProto.DOUBLE)],
        [],
    )
    with pytest.raises(BundleError, match=r"x is tensor\(double\)"):
        Session(double)
    nameless = _write(
        tmp_path / "nameless.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [_info("x", ["batch", None])],
        [_info("y", ["batch", None])],
        [],
    )
    with pytest.raises(BundleError, match="without name or size"):
        Session(nameless)


def test_cuda_is_had_or_refused(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BundleError, match="cuda was asked for"):
            Session(plain, device="cuda")
        assert Session(plain, device="auto").provider == "CPUExecutionProvider"
    # The runtime that lists CUDA and then silently takes the CPU.
    create = onnxruntime.InferenceSession
    monkeypatch.setattr(
        session.onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(
        session.onnxruntime,
        "InferenceSession",
        lambda path, options, providers: create(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(BundleError, match="cuda was asked for and CPUExecutionProvider was obtained"):
        Session(plain, device="cuda")
    assert Session(plain, device="auto").provider == "CPUExecutionProvider"


def test_cuda_is_asked_for_on_our_terms(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runtime is handed, where it says that it has CUDA."""
    create = onnxruntime.InferenceSession
    asked: list[Any] = []

    def opened(source: Any, options: Any, providers: list[Any]) -> Any:
        asked.append((providers, options.use_deterministic_compute))
        return create(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(session.onnxruntime, "InferenceSession", opened)
    Session(plain, device=Place("auto", memory=1 << 30))  # of a runtime without CUDA
    monkeypatch.setattr(
        session.onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    Session(plain, device=Place("auto", memory=1 << 30))
    Session(plain, device="auto")
    Session(plain, device="cpu")
    terms = {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
    cpu = "CPUExecutionProvider"
    assert asked == [
        ([cpu], False),
        ([("CUDAExecutionProvider", {**terms, "gpu_mem_limit": "1073741824"}), cpu], True),
        ([("CUDAExecutionProvider", terms), cpu], True),
        ([cpu], False),
    ]


def test_a_name_is_a_place() -> None:
    assert session.place_of("auto") == Place("auto")
    assert session.place_of(Place("cuda", memory=5)).memory == 5
    assert not may_use_gpu(Place("cpu"))
    assert may_use_gpu(Place("cuda"))


def test_what_is_kept_is_not_bound_and_can_be_fed_again(plain: Path) -> None:
    graph = Session(plain, device=Place("cpu", resident=True))
    x = np.ones((2, 3), np.float32)
    assert graph.bind({"x": x}, {"y": x.copy(), "z": x.copy()}) is None
    [z], [y] = graph.keep({"x": x[::-1]}, ["z"], ["y"])
    np.testing.assert_array_equal(z, -2 * x)
    assert y.shape == (2, 3)
    [again], kept = graph.keep({"x": y}, ["y"], [])
    np.testing.assert_array_equal(again, 4 * x)
    assert kept == []
    assert Session(plain).rows is None


def test_two_threads_may_ask_at_once(plain: Path) -> None:
    graph = Session(plain)
    wrong: list[int] = []

    def ask(number: int) -> None:
        rows = np.full((3, 3), number, np.float32)
        for _ in range(300):
            if (graph.run({"x": rows}, ["y"])[0] != 2 * rows).any():
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
