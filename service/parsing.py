"""From bytes to a checked request. Whatever is wrong becomes a 4xx that names the field."""

from __future__ import annotations

import math
import typing
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty

from service.errors import ClientGone, Problem, invalid

S = TypeVar("S", bound=msgspec.Struct)
AnyRequest = Request[Any, Any, Any]

_MOST_FIELDS = 256
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class Received(Request[Any, Any, Any]):
    """A request whose body is read by the shortest way."""

    async def body(self) -> bytes:
        """The whole body.

        The framework's own goes through a collection of all headers and a generator, and joins, where most
        of the time all of it has arrived already.

        Raises:
            RequestEntityTooLarge: it is longer than VOISIN_BODY_BYTES, or says so.
            Problem: the client left, or took too long.
        """
        if self._body is Empty:
            self._body = await self._arrived()
        return self._body

    async def _arrived(self) -> bytes:
        most = self.route_handler.resolve_request_max_body_size() or math.inf
        announced = _header(self, b"content-length")
        if announced.isdecimal() and int(announced) > most:
            raise RequestEntityTooLarge
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientGone
            parts.append(message["body"])
            size += len(message["body"])
            if size > most:
                raise RequestEntityTooLarge
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


@cache
def _lists(shape: type[msgspec.Struct]) -> frozenset[str]:
    """The fields that may be given more than once in a query or a form."""
    hints = typing.get_type_hints(shape)
    return frozenset(name for name, hint in hints.items() if _takes_list(hint))


def _takes_list(hint: Any) -> bool:
    return typing.get_origin(hint) is list or any(_takes_list(part) for part in typing.get_args(hint))


def _collect(pairs: list[tuple[str, str]], shape: type[msgspec.Struct]) -> dict[str, Any]:
    lists = _lists(shape)
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif name not in lists:
            raise invalid(name[:64], f"{name[:64]} is given more than once", code="repeated_field")
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    """Names and values of `application/x-www-form-urlencoded`, blank values too.

    Raises:
        UnicodeDecodeError: not UTF-8, escaped or plain.
        ValueError: too many fields.
    """
    text = raw.decode("utf-8")
    if text.count("&") >= _MOST_FIELDS:
        raise ValueError
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    # most queries are plain, and this is on the way of every look-up
    parts = (part.partition("=") for part in text.split("&") if part)
    return [(name, value) for name, _, value in parts]


def _query_pairs(request: AnyRequest) -> list[tuple[str, str]]:
    try:
        return _pairs(request.scope["query_string"])
    except UnicodeDecodeError:
        raise invalid(None, "the query is not UTF-8", code="malformed_query") from None
    except ValueError:
        raise invalid(
            None, "the query has too many fields", limit=_MOST_FIELDS, code="malformed_query"
        ) from None


def read_query(request: AnyRequest, shape: type[S]) -> S:
    """The query parameters as a checked struct."""
    fields = _plain_fields(request.scope["query_string"])
    if fields is None:
        fields = _collect(_query_pairs(request), shape)
    return msgspec.convert(fields, shape, strict=False)


def _plain_fields(raw: bytes) -> dict[str, Any] | None:
    """The fields of a query in ASCII that escapes and repeats nothing, as most do; None of any other."""
    if not raw.isascii() or b"%" in raw or b"+" in raw or raw.count(b"&") >= _MOST_FIELDS:
        return None
    parts = raw.decode().split("&")
    fields = {}
    for part in parts:
        name, _, value = part.partition("=")
        fields[name] = value
    return fields if len(fields) == len(parts) and "" not in fields else None


def _header(request: AnyRequest, name: bytes) -> str:
    """A header of the request, without building the whole collection of them; empty where it is not there."""
    for key, value in request.scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return ""


def _content_type(request: AnyRequest) -> str:
    return _header(request, b"content-type").split(";")[0].strip().lower()


async def read_json(request: AnyRequest, shape: type[S], *, strict: bool = True) -> S:
    """The JSON body as a checked struct. A body without Content-Type is taken for JSON."""
    kind = _content_type(request)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, "unsupported_media_type", f"{kind[:64]} is not read here; send application/json")
    _plain(request)
    _no_query(request)
    return _decode(await request.body(), shape, strict)


def _no_query(request: AnyRequest) -> None:
    if not request.scope["query_string"]:
        return
    for name, _ in _query_pairs(request):
        raise invalid(
            name[:64], f"{name[:64]} is in the query; a POST is read from its body", code="unknown_field"
        )


def _plain(request: AnyRequest) -> None:
    encoding = _header(request, b"content-encoding").lower()
    if encoding not in ("", "identity"):
        raise Problem(
            415, "unsupported_encoding", f"Content-Encoding {encoding[:64]} is not read here; send it plain"
        )


def _decode(body: bytes, shape: type[S], strict: bool) -> S:
    try:
        return msgspec.json.decode(body, type=shape, strict=strict)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        where = "it is empty" if not body else str(error)
        raise Problem(400, "malformed_json", f"the body is not JSON: {where}") from None


async def read_json_or_form(request: AnyRequest, shape: type[S]) -> S:
    """JSON, a form, or query parameters, whichever way a LibreTranslate client chose to send it."""
    kind = _content_type(request)
    if kind in _FORMS:
        pairs = _query_pairs(request) + await _form_pairs(request, kind)
        return msgspec.convert(_collect(pairs, shape), shape, strict=False)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(
            415, "unsupported_media_type", f"{kind[:64]} is not read here; send application/json or a form"
        )
    _plain(request)
    body = await request.body()
    if not body.strip():
        return read_query(request, shape)
    _no_query(request)
    return _decode(body, shape, strict=False)


async def _form_pairs(request: AnyRequest, kind: str) -> list[tuple[str, str]]:
    """The fields of a form; browsers send line ends as CRLF, which are made plain again."""
    _plain(request)
    try:
        if kind == _FORMS[0]:
            pairs = _pairs(await request.body())
        else:
            pairs = _texts(list((await request.form()).multi_items()))
    except RequestEntityTooLarge:
        raise
    except (ValueError, HTTPException) as error:
        raise Problem(400, "malformed_form", "the body is not a form") from error
    return [(name, value.replace("\r\n", "\n")) for name, value in pairs]


def _texts(items: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    for name, value in items:
        if not isinstance(value, str):
            raise invalid(str(name)[:64], "a file is not read here; send text")
    return items


def check_text(field: str, text: str, limit: int) -> str:
    """`text`, if it is not longer than VOISIN_TEXT_CHARS."""
    if len(text) > limit:
        detail = f"request ({len(text)}) exceeds text limit ({limit})"
        raise invalid(field, detail, limit=limit, code="text_too_long")
    return text


def is_fresh(request: AnyRequest) -> bool:
    """Whether the caller wants the answer computed, not remembered."""
    return "no-cache" in _header(request, b"cache-control").lower()
