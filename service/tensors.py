"""Tensors of the Open Inference Protocol, as JSON and in the binary form of its extension."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from service.errors import Problem, invalid
from service.schemas_kserve import InferInput, InferRequest

_LENGTH = struct.Struct("<I")
_MOST_AXES = 8


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its gzip or zlib packing.

    Raises:
        Problem: 415 for another encoding, 400 for a damaged one, 413 where more than `limit` bytes come out.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise Problem(415, "unsupported_encoding", f"Content-Encoding {encoding[:32]} is not read here")
    unpacker = zlib.decompressobj(wbits=47)  # either header
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise invalid(None, f"the body is not {encoding}", code="malformed_body") from None
    if len(plain) > limit:
        raise Problem(413, "body_too_large", "the unpacked body is longer than VOISIN_BODY_BYTES")
    if not unpacker.eof:
        raise invalid(None, f"the {encoding} body ends too soon", code="malformed_body")
    return plain


def split(body: bytes, header_length: str) -> tuple[InferRequest, bytes]:
    """The request and the bytes of its tensors.

    Args:
        header_length: of the JSON at the beginning, as `Inference-Header-Content-Length` has it; "" = all.

    Raises:
        Problem: the length is no number or beyond the body, or the JSON is none.
        msgspec.ValidationError: the JSON is no request.
    """
    end = len(body)
    if header_length:
        if not (header_length.isascii() and header_length.isdigit()) or int(header_length[:12]) > end:
            raise invalid(
                None, f"Inference-Header-Content-Length is not between 0 and {end}", code="malformed_body"
            )
        end = int(header_length)
    try:
        return msgspec.json.decode(body[:end], type=InferRequest), body[end:]
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "malformed_json", f"the body is not JSON: {error}") from None


def texts_of(request: InferRequest, name: str, tail: bytes, most: int) -> list[str]:
    """The texts of the only input, which must be called `name`.

    Args:
        tail: the binary data behind the JSON.
        most: texts in one request.

    Raises:
        Problem: 400, naming what is not as the model's metadata says.
    """
    if [each.name for each in request.inputs] != [name]:
        given = ", ".join(each.name[:32] for each in request.inputs) or "none"
        raise invalid("inputs", f"the model has one input, {name}; given: {given}")
    [tensor] = request.inputs
    if tensor.datatype != "BYTES":
        raise invalid("inputs", f"{name} has the datatype BYTES, not {tensor.datatype[:16]}")
    if len(tensor.shape) > _MOST_AXES:
        raise invalid("inputs", f"{name} has {len(tensor.shape)} axes", limit=_MOST_AXES)
    count = math.prod(tensor.shape)
    if not 0 < count <= most:
        raise invalid("inputs", f"{name} has {count} texts; there must be 1 to {most}", limit=most)
    if "shared_memory_region" in tensor.parameters:
        raise invalid("inputs", "shared memory is not supported: send the data", code="unsupported")
    found = list(_binary(tensor, tail) if "binary_data_size" in tensor.parameters else _plain(tensor, tail))
    if len(found) != count:
        raise invalid("inputs", f"{name} has {len(found)} texts, and its shape says {count}")
    return found


def _plain(tensor: InferInput, tail: bytes) -> Iterator[str]:
    if tail:
        raise invalid("inputs", f"{len(tail)} bytes follow the JSON, and no input has a binary_data_size")
    if isinstance(tensor.data, msgspec.UnsetType):
        raise invalid("inputs", f"{tensor.name} has neither data nor binary_data_size", code="missing_field")
    return _flat(tensor.data, 0)


def _flat(data: list[Any], depth: int) -> Iterator[str]:
    for item in data:
        if isinstance(item, str):
            yield item
        elif isinstance(item, list) and depth < _MOST_AXES:
            yield from _flat(item, depth + 1)
        else:
            raise invalid("inputs", "the data of BYTES are strings, nested as the shape is or not at all")


def _binary(tensor: InferInput, tail: bytes) -> Iterator[str]:
    size = tensor.parameters["binary_data_size"]
    if type(size) is not int or size != len(tail):
        raise invalid("inputs", f"binary_data_size is {size}, and {len(tail)} bytes follow the JSON")
    place = 0
    while place < size:
        end = place + _LENGTH.size
        if end > size or end + _LENGTH.unpack_from(tail, place)[0] > size:
            raise invalid("inputs", "the binary data end in the middle of an element")
        start, end = end, end + _LENGTH.unpack_from(tail, place)[0]
        try:
            yield tail[start:end].decode()
        except UnicodeDecodeError:
            raise invalid("inputs", "an element of the binary data is not UTF-8") from None
        place = end


def raw(values: Sequence[str] | np.ndarray[Any, Any]) -> bytes:
    """The binary form: each text behind its length in four bytes; numbers as little-endian float32."""
    if isinstance(values, np.ndarray):
        return values.astype("<f4").tobytes()
    parts = [text.encode() for text in values]
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)
