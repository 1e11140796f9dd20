"""What a browser is shown. Every asset is in this package: nothing is loaded from elsewhere."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler

from service.parsing import AnyRequest
from service.responses import Answer
from service.routes import described

_HTML = "text/html; charset=utf-8"
# The pages are one file each, script and style inside; nothing may be fetched but from here.
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def _page(name: str) -> Answer:
    """The page, with a policy that runs its own scripts, known by their hashes, and no other."""
    body = files("service").joinpath("page", name).read_bytes()
    hashes = [b64encode(hashlib.sha256(script).digest()).decode() for script in _SCRIPT.findall(body)]
    policy = _POLICY.format(scripts=" ".join(f"'sha256-{each}'" for each in hashes))
    return Answer(body, media_type=_HTML, headers=_HEADERS | {"content-security-policy": policy})


def routes(openapi: Callable[[], dict[str, Any]]) -> list[HTTPRouteHandler]:
    """`/` to try the tasks, `/schema` to read about the routes, `/schema/openapi.json` for programs."""
    index, schema = _page("index.html"), _page("schema.html")

    @cache
    def document() -> Answer:
        return Answer(msgspec.json.format(msgspec.json.encode(openapi())))

    @get("/", opt=described("meta", "A page to try the three tasks", media="text/html", answer=str))
    async def home(request: AnyRequest) -> Answer:
        return index

    @get("/schema", opt=described("meta", "OpenAPI 3.1; a page for browsers", answer=dict[str, Any]))
    async def read_schema(request: AnyRequest) -> Answer:
        return schema if "text/html" in request.headers.get("accept", "") else document()

    @get("/schema/openapi.json", opt=described("meta", "OpenAPI 3.1", answer=dict[str, Any]))
    async def openapi_json(request: AnyRequest) -> Answer:
        return document()

    @get("/favicon.ico", include_in_schema=False)
    async def icon(request: AnyRequest) -> Answer:
        return Answer(b"", media_type="image/x-icon")

    return [home, read_schema, openapi_json, icon]
