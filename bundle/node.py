"""A graph of one operator, written without the onnx package, which the service does not have.

The message and its numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3);
`bundle.stored` reads what this writes.
"""

from collections.abc import Sequence
from typing import Literal

OUTPUT = "out"
"""What the only output is called."""

_IR_VERSION, _OPSET = 8, 18
_MODEL_IR, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_OPSET_VERSION = 2
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE, _INT = 1, 3, 20, 2
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT = 1, 2, 1, 1
_ELEMENTS = {"float32": 1, "int64": 7}

Element = Literal["float32", "int64"]
Field = tuple[int, int | str | bytes]


def node(operator: str, inputs: Sequence[tuple[str, Element]], **attributes: int) -> bytes:
    """An ONNX model of one operator, whose float32 output is called `OUTPUT`.

    Args:
        inputs: names and types, in the operator's order; of any shape. An input that is left out has no name.
        attributes: whole numbers, none of them negative.
    """
    body: list[Field] = [(_NODE_INPUT, name) for name, _ in inputs]
    body += [(_NODE_OUTPUT, OUTPUT), (_NODE_OPERATOR, operator)]
    body += [(_NODE_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
    graph: list[Field] = [(_GRAPH_NODE, _message(body)), (_GRAPH_NAME, operator)]
    graph += [(_GRAPH_INPUT, _value(name, element)) for name, element in inputs if name]
    graph += [(_GRAPH_OUTPUT, _value(OUTPUT, "float32"))]
    opset = _message([(_OPSET_VERSION, _OPSET)])
    return _message([(_MODEL_IR, _IR_VERSION), (_MODEL_GRAPH, _message(graph)), (_MODEL_OPSET, opset)])


def _attribute(name: str, value: int) -> bytes:
    return _message([(_ATTRIBUTE_NAME, name), (_ATTRIBUTE_INT, value), (_ATTRIBUTE_TYPE, _INT)])


def _value(name: str, element: Element) -> bytes:
    tensor = _message([(_TENSOR_ELEMENT, _ELEMENTS[element])])
    return _message([(_VALUE_NAME, name), (_VALUE_TYPE, _message([(_TYPE_TENSOR, tensor)]))])


def _message(fields: Sequence[Field]) -> bytes:
    """Fields by their numbers; texts and messages go with their length before them."""
    out = b""
    for number, content in fields:
        if isinstance(content, int):
            out += _varint(number << 3) + _varint(content)
        else:
            raw = content.encode() if isinstance(content, str) else content
            out += _varint(number << 3 | 2) + _varint(len(raw)) + raw
    return out


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
