"""Is the client still there? The framework cancels neither plain handlers nor, surely, streams: we watch."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import Receive

from service.errors import ClientGone

T = TypeVar("T")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection.

    Call it only after the request's body was read: what comes from `receive` here is thrown away.

    Raises:
        ClientGone: the client left first.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        await _gone(receive)
        gone = True
        working.cancel()  # this very task, as asyncio.timeout does it: a task less for every request

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not working.uncancel():
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()
