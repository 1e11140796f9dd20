"""A graph as it lies in its file, border, nodes and weights, without the runtime that would copy them.

An ONNX file is one protobuf message; the numbers of its fields are those of onnx.proto3
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

_GRAPH = 7  # of ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # of GraphProto
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
_ATTRIBUTE_NAME, _FLOAT, _INT = 1, 2, 3  # of AttributeProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA = 1, 2, 8, 9, 13  # of TensorProto
_VALUE_NAME, _TYPE = 1, 2  # of ValueInfoProto
_TENSOR_TYPE, _SHAPE, _DIM, _DIM_VALUE, _DIM_PARAM = 1, 2, 1, 1, 2  # of TypeProto and what it holds
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES: dict[int, type[np.generic]] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    6: np.int32,
    7: np.int64,
    10: np.float16,
}


@dataclass(frozen=True)
class Node:
    """An operator and the names that it reads and writes; an input left out has no name.

    Attributes:
        attributes: those that are one whole number or one float.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class Stored:
    """What lies in the file of a graph.

    Attributes:
        inputs, outputs: the axes of each tensor at the border, by its name; an axis is a name or a size.
        nodes: in the order of the file.
        weights: mapped into memory and not to be written to.
    """

    inputs: dict[str, tuple[str | int, ...]]
    outputs: dict[str, tuple[str | int, ...]]
    nodes: tuple[Node, ...]
    weights: dict[str, Array]


def read_stored(path: str | PathLike[str]) -> Stored:
    """Maps a graph's weights. Nothing is read but names and shapes until a weight is used.

    Weights of types that numpy lacks, or that are not stored as raw bytes, are left out.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is not an ONNX file, or its weights are cut short.
    """
    data = _map(Path(path))
    inputs: dict[str, tuple[str | int, ...]] = {}
    outputs: dict[str, tuple[str | int, ...]] = {}
    nodes: list[Node] = []
    weights: dict[str, Array] = {}
    try:
        for start, end in _parts(data, 0, len(data), _GRAPH):
            for key, _, first, last in _fields(data, start, end):
                number = key >> 3
                if number == _INITIALIZER:
                    name, array = _tensor(data, first, last, Path(path).parent)
                    if array is not None:
                        weights[name] = array
                elif number == _NODE:
                    nodes.append(_node(data, first, last))
                elif number in (_INPUT, _OUTPUT):
                    name = _text(data, first, last, _VALUE_NAME)
                    (inputs if number == _INPUT else outputs)[name] = _axes(data, first, last)
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise ValueError("it is not an ONNX file") from error
    return Stored(inputs, outputs, tuple(nodes), weights)


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        if not path.stat().st_size:  # nothing cannot be mapped
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(key, value where it is a varint, first byte, end) of each field; a key is number * 8 + kind."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        value = 0
        first = at
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind == _BYTES:
            size, first = _varint(data, at)
            at = first + size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("it is not an ONNX file")
        if at > end:
            raise ValueError("it is not a whole ONNX file")
        yield key, value, first, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is not an ONNX file")


def _parts(data: memoryview, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    return ((first, last) for key, _, first, last in _fields(data, start, end) if key >> 3 == wanted)


def _text(data: memoryview, start: int, end: int, wanted: int) -> str:
    return "".join(str(data[first:last], "utf-8") for first, last in _parts(data, start, end, wanted))


def _node(data: memoryview, start: int, end: int) -> Node:
    names: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: []}
    operator, attributes = "", {}
    for key, _, first, last in _fields(data, start, end):
        number = key >> 3
        if number in names:
            names[number].append(str(data[first:last], "utf-8"))
        elif number == _OPERATOR:
            operator = str(data[first:last], "utf-8")
        elif number == _ATTRIBUTE:
            attributes.update(_attribute(data, first, last))
    return Node(operator, tuple(names[_NODE_INPUT]), tuple(names[_NODE_OUTPUT]), attributes)


def _attribute(data: memoryview, start: int, end: int) -> dict[str, float]:
    name, found = "", None
    for key, value, first, last in _fields(data, start, end):
        number = key >> 3
        if number == _ATTRIBUTE_NAME:
            name = str(data[first:last], "utf-8")
        elif number == _FLOAT:
            (found,) = struct.unpack("<f", data[last - 4 : last])
        elif number == _INT:
            found = value
    return {} if found is None else {name: found}


def _axes(data: memoryview, start: int, end: int) -> tuple[str | int, ...]:
    parts = [(start, end)]
    for wanted in (_TYPE, _TENSOR_TYPE, _SHAPE, _DIM):
        parts = [part for first, last in parts for part in _parts(data, first, last, wanted)]
    axes: list[str | int] = []
    for first, last in parts:
        fields = {key >> 3: value for key, value, _, _ in _fields(data, first, last)}
        axes.append(fields[_DIM_VALUE] if _DIM_VALUE in fields else _text(data, first, last, _DIM_PARAM))
    return tuple(axes)


def _tensor(data: memoryview, start: int, end: int, folder: Path) -> tuple[str, Array | None]:
    name, kind, raw = "", 0, None
    shape: list[int] = []
    outside: dict[str, str] = {}
    for key, value, first, last in _fields(data, start, end):
        number = key >> 3
        if number == _NAME:
            name = str(data[first:last], "utf-8")
        elif number == _DATA_TYPE:
            kind = value
        elif number == _DIMS:
            shape += [value] if key & 7 == _VARINT else _packed(data, first, last)
        elif number == _RAW_DATA:
            raw = data[first:last]
        elif number == _EXTERNAL_DATA:
            outside[_text(data, first, last, _KEY)] = _text(data, first, last, _VALUE)
    if outside:
        raw = _outside(folder, outside)
    if raw is None or kind not in _DTYPES:
        return name, None
    dtype = np.dtype(_DTYPES[kind])
    if len(raw) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"its weight {name} is not of the size it says")
    array: Array = np.frombuffer(raw, dtype).reshape(shape)
    # a protobuf aligns nothing, and arithmetic on numbers across borders copies them each time
    return name, array if array.flags.aligned else array.copy()


def _packed(data: memoryview, start: int, end: int) -> list[int]:
    """Many numbers in one field, as some writers put a shape."""
    found = []
    while start < end:
        number, start = _varint(data, start)
        found.append(number)
    return found


def _outside(folder: Path, outside: dict[str, str]) -> memoryview:
    """Bytes that the graph keeps in a file beside it."""
    name = outside.get("location", "")
    if not name or Path(name).name != name:
        raise ValueError(f"its weights are said to be in {name!r}, which is no file beside it")
    data = _map(folder / name)
    offset = int(outside.get("offset", "0"))
    length = int(outside.get("length", str(len(data) - offset)))
    if not 0 <= offset <= offset + length <= len(data):
        raise ValueError(f"{name} is too short")
    return data[offset : offset + length]
