"""The OpenAPI 3.1 document, written from what the handlers say about themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler

from service import VERSION
from service.problems import ProblemDetails
from service.schemas import Choice, Neighbour

_REF = "#/components/schemas/{name}"
_DESCRIPTION = "Nearest words, completion and French-English translation from bundles you train yourself."


def document(handlers: Iterable[HTTPRouteHandler]) -> dict[str, Any]:
    """The document for these handlers; each carries `service.routes.described` as its opt."""
    described = [handler for handler in handlers if "summary" in handler.opt]
    shapes = [ProblemDetails, Choice, Neighbour]
    for handler in described:
        keys = ("query", "body", "answer", "error")
        shapes += [shape for key in keys if (shape := handler.opt[key]) is not None]
    schemas, components = msgspec.json.schema_components(shapes, ref_template=_REF)
    found = {_identity(shape): schema for shape, schema in zip(shapes, schemas, strict=True)}
    _fill_raw(components)
    paths: dict[str, Any] = {}
    for handler in described:
        for path in sorted(handler.paths):
            name = re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
            for method in sorted(handler.http_methods):
                paths.setdefault(name, {})[method.lower()] = _operation(handler, name, found, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "voisin",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components},
    }


def _identity(shape: Any) -> str:
    return repr(shape)


def _fill_raw(components: dict[str, Any]) -> None:
    """Members that are copied from the cache as bytes have no type of their own; say what the bytes hold."""
    for owner, member, item in (
        ("SimilarAnswer", "neighbours", "Neighbour"),
        ("CompleteAnswer", "completions", "Choice"),
    ):
        if owner in components:
            items = {"type": "array", "items": {"$ref": _REF.format(name=item)}}
            components[owner]["properties"][member] = items


def _operation(
    handler: HTTPRouteHandler, path: str, schemas: dict[str, Any], components: dict[str, Any]
) -> dict[str, Any]:
    opt = handler.opt
    operation: dict[str, Any] = {"summary": opt["summary"], "tags": [opt["task"]]}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if opt["query"] is not None:
        operation["description"] = inspect.getdoc(opt["query"]) or ""
        parameters += _parameters(components[opt["query"].__name__])
    if parameters:
        operation["parameters"] = parameters
    if opt["body"] is not None:
        schema = {"schema": schemas[_identity(opt["body"])]}
        if opt["example"] is not None:
            schema["example"] = opt["example"]
        kinds = ["application/json", *(["application/x-www-form-urlencoded"] if opt["form"] else [])]
        bodies = dict.fromkeys(kinds, schema)
        bodies |= {media: {"schema": {"type": "string", "format": "binary"}} for media in opt["takes"]}
        operation["requestBody"] = {"required": True, "content": bodies}
    content = {opt["media"]: {"schema": schemas.get(_identity(opt["answer"]), {})}}
    content |= {media: {} for media in opt["also"]}
    problem = {"application/problem+json": {"schema": schemas[_identity(ProblemDetails)]}}
    if opt["error"] is not None:
        problem = {"application/json": {"schema": schemas[_identity(opt["error"])]}}
    operation["responses"] = {
        "200": {"description": "the answer", "content": content},
        "default": {"description": "what was wrong, with field and limit", "content": problem},
    }
    return operation


def _parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": member}
        for name, member in schema["properties"].items()
    ]
