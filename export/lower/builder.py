"""A graph under construction: nodes named by path, weights stored once and in one precision."""

from collections.abc import Iterator, Mapping, Sequence
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

_TYPES: Final = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


class GraphBuilder:
    """Collects nodes and initialisers; values are handled by their names.

    Args:
        name: of the graph.
        inputs, outputs: the border, as the module declares it.
        precision: how matrices are stored.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        precision: Precision,
    ) -> None:
        self.precision = precision
        self._name, self._inputs, self._outputs = name, inputs, outputs
        self._nodes: list[onnx.NodeProto] = []
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
        self.rows(name, weight)
        kept = storage(_numpy(weight), self.precision)
        picked = self.node("Gather", name, ids, axis=0)
        if kept == "fp32":
            return picked
        picked = self.node("Cast", picked, to=TensorProto.FLOAT)
        if kept == "fp16":
            return picked
        scales = self.node("Gather", f"{name}.scale", ids, axis=0)
        return self.node("Mul", picked, self.node("Unsqueeze", scales, self.ints(-1)))

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
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="voisin",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _restored(self, name: str, weight: NDArray[np.float32], transposed: bool) -> str:
        """Store a matrix (rows = channels) and return the float32 value of it, or of its transpose."""
        kept = storage(weight, self.precision)
        if kept == "fp32":
            return self._store(name, _turned(weight, transposed))
        if kept == "fp16":
            return self.node(
                "Cast", self._store(name, _turned(halved(weight), transposed)), to=TensorProto.FLOAT
            )
        quantized = quantize(weight)
        values = self._store(name, _turned(quantized.values, transposed))
        scales = self._store(f"{name}.scale", quantized.scales)
        return self.node("DequantizeLinear", values, scales, axis=1 if transposed else 0)

    def _store(self, name: str, array: NDArray[Any]) -> str:
        if name in self._initializers:
            raise ValueError(f"{name} is stored twice")
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name


def _turned(array: NDArray[Any], transposed: bool) -> NDArray[Any]:
    return array.T if transposed else array


def _numpy(weight: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = weight.detach().cpu().float().numpy()
    return array


def _infos(specs: Sequence[TensorSpec] | Any) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(s.name, _TYPES[s.dtype], list(s.axes)) for s in specs]
