"""A graph under construction: nodes named by path, weights stored once and in one precision."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bundle.manifest import Precision
from bundle.stepper import TensorSpec
from export.quantize import halved, quantize, storage

#: Opset 20 brings Gelu to the standard domain; IR 9 belongs to it.
OPSET: Final = 20
IR_VERSION: Final = 9
_MIDDLE: Final = 128
"""What stands for nought in uint8: kernels multiply bytes without sign by bytes with one."""

Body = Callable[[str, list[str]], tuple[list[str], list[str]]]
"""Of a loop: from the number of the round and what is carried to what is carried on and what is collected."""

_TYPES: Final = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


class GraphBuilder:
    """Collects nodes and initialisers; values are handled by their names.

    Args:
        name: of the graph.
        inputs, outputs: the border, as the module declares it.
        precision: how matrices are stored.
        whole: multiply int8 matrices as whole numbers; see `product`.
        norm_bounds: how large the numbers of a layer norm become, by its name; see `within`.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        precision: Precision,
        *,
        whole: bool = False,
        norm_bounds: Mapping[str, float] | None = None,
    ) -> None:
        self.precision = precision
        self.norm_bounds = norm_bounds or {}
        self._whole = whole and precision == "int8"
        self._rounded: dict[str, tuple[str, str, str, str]] = {}
        self._bounds: dict[str, float] = {}
        self._positive: set[str] = set()
        self._name, self._inputs, self._outputs = name, inputs, outputs
        self._nodes: list[onnx.NodeProto] = []
        self._outside = self._nodes
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._weights: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._results: dict[str, str] = {}
        self._path: list[str] = []
        self._counter = 0

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes made inside are named `.../name/...`."""
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def nodes(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append a node; an empty input name is an optional input left out."""
        self._counter += 1
        label = "/".join([*self._path, f"{op}_{self._counter}"])
        names = [label if outputs == 1 else f"{label}.{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=label, **attributes))
        return names

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        return self.nodes(op, *inputs, outputs=1, **attributes)[0]

    def loop(self, rounds: str, carried: Sequence[str], build: Body) -> tuple[list[str], list[str]]:
        """A Loop over float32 values; none of its nodes runs where there are no rounds.

        Weights are restored outside of it, once.

        Args:
            rounds: int64 [1].
            carried: what the first round starts from, [batch, n] each.

        Returns:
            What the last round carried on, and what all of them collected, with an axis of rounds in front.
        """
        self._counter += 1
        label = "/".join([*self._path, f"Loop_{self._counter}"])
        number, going = f"{label}.number", f"{label}.going"
        starts = [f"{label}.start.{place}" for place in range(len(carried))]
        self._nodes = []
        ends, collected = build(number, starts)
        ends = [self.node("Identity", end) for end in ends]
        collected = [self.node("Identity", each) for each in collected]
        goes_on = self.node("Identity", going)
        counter = helper.make_tensor_value_info(number, TensorProto.INT64, [])
        body = helper.make_graph(
            self._nodes,
            f"{label}.body",
            [counter, _flag(going), *(_floats(name) for name in starts)],
            [_flag(goes_on), *(_floats(name) for name in (*ends, *collected))],
        )
        self._nodes = self._outside
        outputs = len(ends) + len(collected)
        found = self.nodes(
            "Loop", self.node("Squeeze", rounds), "", *carried, outputs=max(outputs, 2), body=body
        )
        return found[: len(ends)], found[len(ends) :]

    def constant(self, value: Any, dtype: type[np.generic]) -> str:
        """A small constant; equal constants are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._store(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A constant int64 list: axes, shapes."""
        return self.constant(values, np.int64)

    def scalar(self, value: int) -> str:
        """A constant int64 without axes."""
        return self.constant(value, np.int64)

    def vector(self, name: str, weight: torch.Tensor) -> str:
        """A bias, a scale: always float32."""
        if name not in self._weights:
            self._weights[name] = self._store(name, _numpy(weight))
        return self._weights[name]

    def matrix(self, name: str, weight: torch.Tensor) -> str:
        """The float32 value [in, out] of a projection's weight [out, in]."""
        key = f"{name}^T"
        if key not in self._weights:
            self._weights[key] = self._restored(name, _numpy(weight), transposed=True)
        return self._weights[key]

    def rows(self, name: str, weight: torch.Tensor) -> str:
        """The float32 value [rows, columns] of a matrix whose rows are output channels."""
        if name not in self._weights:
            self._weights[name] = self._restored(name, _numpy(weight), transposed=False)
        return self._weights[name]

    def lookup(self, name: str, weight: torch.Tensor, ids: str) -> str:
        """float32 [..., columns]: the rows `ids` of a table. `rows` of the same name shares its storage."""
        kept = self._keep(name, _numpy(weight), transposed=False)
        picked = self.node("Gather", name, ids, axis=0)
        if kept == "fp32":
            return picked
        picked = self.node("Cast", picked, to=TensorProto.FLOAT)
        if kept == "fp16":
            return picked
        scales = self.node("Gather", f"{name}.scale", ids, axis=0)
        return self.node("Mul", picked, self.node("Unsqueeze", scales, self.ints(-1)))

    def within(self, x: str, bound: float) -> str:
        """Says that no number of x is larger than `bound`, with either sign, so that whole products of it
        need not look. What is larger all the same counts as the bound."""
        self._bounds[x] = bound
        return x

    def positive(self, x: str) -> str:
        """Says that no number of x is below nought."""
        self._positive.add(x)
        return x

    def product(self, name: str, weight: torch.Tensor, x: str, bias: str = "") -> str:
        """x W' + bias over the last axis, for a projection's weight [out, in]."""
        if not self._multiplies_whole(weight):
            return self._plus(self.node("MatMul", x, self.matrix(name, weight)), bias)
        self._keep(name, _numpy(weight), transposed=True)
        return self._whole_product(x, name, f"{name}.scale", bias)

    def tied_product(self, name: str, weight: torch.Tensor, x: str) -> str:
        """x W' for a table [rows, in] that is looked up too; it is stored once."""
        if not self._multiplies_whole(weight):
            return self.node("MatMul", x, self.node("Transpose", self.rows(name, weight), perm=[1, 0]))
        self._keep(name, _numpy(weight), transposed=False)
        return self._whole_product(x, self.node("Transpose", name, perm=[1, 0]), f"{name}.scale")

    def result(self, name: str, value: str) -> None:
        """Declare what an output of the graph is.

        Raises:
            ValueError: the graph has no such output, or it was declared before.
        """
        if name not in self._outputs or name in self._results:
            raise ValueError(f"{name} is not an output, or is given twice")
        if value in self._inputs or value in self._results.values():
            value = self.node("Identity", value)
        self._results[name] = value

    def build(self) -> onnx.ModelProto:
        """The checked model.

        Raises:
            ValueError: an output of the graph was never declared.
            onnx.checker.ValidationError: the graph breaks a rule of ONNX.
        """
        if missing := [name for name in self._outputs if name not in self._results]:
            raise ValueError(f"outputs without a value: {', '.join(missing)}")
        final = {value: name for name, value in self._results.items()}
        for node in self._nodes:
            node.input[:] = [final.get(name, name) for name in node.input]
            node.output[:] = [final.get(name, name) for name in node.output]
        graph = helper.make_graph(
            self._nodes,
            self._name,
            _infos(self._inputs.values()),
            _infos(self._outputs.values()),
            list(self._initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in self._domains()],
            ir_version=IR_VERSION,
            producer_name="voisin",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _domains(self) -> list[tuple[str, int]]:
        return [("", OPSET), *sorted({(node.domain, 1) for node in self._nodes if node.domain})]

    def _multiplies_whole(self, weight: torch.Tensor) -> bool:
        return self._whole and storage(_numpy(weight), self.precision) == "int8"

    def _whole_product(self, x: str, values: str, scales: str, bias: str = "") -> str:
        """The product of rows of whole numbers, exact, times the scale of each row and of each channel.

        A row of x is divided by its own largest number, or by a bound that holds for every row, so a row
        never knows its neighbours; sums of whole numbers do not depend on the order in which a kernel adds.
        """
        rounded, unit, zero, largest = self._round(x)
        inputs = [rounded, values, unit, scales, zero]
        if not largest and bias:
            inputs += ["", bias]
        product = self.node("MatMulIntegerToFloat", *inputs, domain="com.microsoft")
        return self._plus(self.node("Mul", product, largest), bias) if largest else product

    def _round(self, x: str) -> tuple[str, str, str, str]:
        """uint8 rows, what a unit of them is worth, what stands for nought, and the number [..., 1] by which
        each row was divided, where it was; once for all that read x."""
        if x not in self._rounded:
            positive = x in self._positive
            zero = self.constant(0 if positive else _MIDDLE, np.uint8)
            steps = 255 if positive else 127
            if x in self._bounds:
                unit, largest, scaled = self.constant(self._bounds[x] / steps, np.float32), "", x
            else:
                unit = self.constant(1 / steps, np.float32)
                sizes = x if positive else self.node("Abs", x)
                largest = self.node("ReduceMax", sizes, self.ints(-1), keepdims=1)
                # a row of zeros stays one
                largest = self.node("Max", largest, self.constant(np.finfo(np.float32).tiny, np.float32))
                scaled = self.node("Div", x, largest)
            self._rounded[x] = self.node("QuantizeLinear", scaled, unit, zero), unit, zero, largest
        return self._rounded[x]

    def _plus(self, y: str, bias: str) -> str:
        return self.node("Add", y, bias) if bias else y

    def _restored(self, name: str, weight: NDArray[np.float32], transposed: bool) -> str:
        """The float32 value of a matrix (rows = channels), or of its transpose."""
        kept = self._keep(name, weight, transposed)
        if kept == "fp32":
            return name
        inside, self._nodes = self._nodes, self._outside
        try:
            if kept == "fp16":
                return self.node("Cast", name, to=TensorProto.FLOAT)
            return self.node("DequantizeLinear", name, f"{name}.scale", axis=1 if transposed else 0)
        finally:
            self._nodes = inside

    def _keep(self, name: str, weight: NDArray[np.float32], transposed: bool) -> Precision:
        """Store a matrix (rows = channels) or its transpose, once, and say how."""
        kept = storage(weight, self.precision)
        if name in self._initializers:
            return kept
        if kept == "int8":
            quantized = quantize(weight)
            self._store(name, _turned(quantized.values, transposed))
            self._store(f"{name}.scale", quantized.scales)
        else:
            self._store(name, _turned(weight if kept == "fp32" else halved(weight), transposed))
        return kept

    def _store(self, name: str, array: NDArray[Any]) -> str:
        if name in self._initializers:
            raise ValueError(f"{name} is stored twice")
        self._initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name


def _turned(array: NDArray[Any], transposed: bool) -> NDArray[Any]:
    return array.T if transposed else array


def _numpy(weight: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = weight.detach().cpu().float().numpy()
    return array


def _infos(specs: Sequence[TensorSpec] | Any) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(s.name, _TYPES[s.dtype], list(s.axes)) for s in specs]


def _flag(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def _floats(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
