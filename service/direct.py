"""The busiest routes without the framework's way to them.

Half of what a short request costs is spent on the way: the trie of routes, the layers around a handler, the
reading of arguments that ours do not have. A refusal costs little else, and a full house gives hundreds a
second. Whatever is unusual (another spelling of the path, a form) goes the framework's way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from service.parsing import AnyRequest, Received
from service.responses import Answer

_TYPE, _JSON = b"content-type", b"application/json"


class Direct:
    """Hands requests for some paths to the framework's own handlers, guards included, without its routing.

    Args:
        app: whose handlers take the request alone, and give back what can be sent.
        paths: as they are written in the routes.
        refuse: any exception as an answer.
    """

    def __init__(
        self, app: Litestar, paths: Collection[str], refuse: Callable[[AnyRequest, Exception], Answer]
    ) -> None:
        self._app = app
        self._refuse = refuse
        self._handlers: dict[tuple[str, str], tuple[HTTPRouteHandler, bool]] = {}
        for route in app.routes:
            if isinstance(route, HTTPRoute) and route.path in paths:
                for method in route.methods & {"GET", "POST"}:
                    handler = route.route_handler_map[method][0]
                    self._handlers[method, route.path] = handler, bool(handler.resolve_guards())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._handlers.get((scope.get("method", ""), scope.get("path", "")))  # type: ignore[arg-type]
        if found is None or not _plain(scope):
            await self._app(scope, receive, send)
            return
        handler, guarded = found
        whole: Any = scope
        whole["app"] = whole["litestar_app"] = self._app
        whole["path_params"] = {}
        whole["route_handler"] = handler
        whole.setdefault("state", {})
        request = Received(whole, receive, send)
        answer: ASGIApp
        try:
            if guarded:
                await handler.authorize_connection(connection=request)
            answer = await handler.fn(request)
        except Exception as error:
            answer = self._refuse(request, error)
        await answer(scope, receive, send)


def _plain(scope: Scope) -> bool:
    """Whether a request is read without the framework: it asks, or its body is JSON."""
    if scope["method"] == "GET":  # type: ignore[typeddict-item]
        return True
    return any(name == _TYPE and value[:16].lower() == _JSON for name, value in scope["headers"])
