"""uvicorn, told to leave in good order: not ready, then drained, then gone with exit status 0."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
from litestar.types import ASGIApp

from service.connections import Connection, connection_class, hang_up_on_silence, most_connections
from service.house import House

logger = logging.getLogger("voisin")

_IDLE = 75  # seconds a connection may lie idle: longer than clients and load balancers keep theirs, mostly 60
_LAST_BYTES = 5  # seconds for answers that are complete, but not yet all sent


class Server(uvicorn.Server):
    """A server whose first SIGTERM (or SIGINT) starts a drain and whose second ends it.

    While it drains it still listens: /health/ready says no, new work is refused with 503, and what was
    admitted before is finished, streams too, for at most VOISIN_DRAIN_SECONDS.
    """

    def __init__(self, config: uvicorn.Config, house: House) -> None:
        super().__init__(config)
        self._house = house
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._house.admission.draining:
            self.should_exit = self.force_exit = True
            return
        self._house.admission.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._house.admission.draining and self._drain is None:
            self._drain = asyncio.create_task(self._leave(), name="drain")
        return await super().on_tick(counter)

    async def _leave(self) -> None:
        logger.info("draining", extra={"data": {"requests": self._house.admission.jobs}})
        await self._house.admission.wait_empty(self._house.settings.drain_seconds)
        left = self._house.admission.jobs
        self._house.answers.give_up()
        logger.log(logging.WARNING if left else logging.INFO, "drained", extra={"data": {"unanswered": left}})
        self.should_exit = True


def serve(app: ASGIApp, house: House) -> None:
    """Listen until told to stop.

    Raises:
        OSError: the address cannot be had.
    """
    settings = house.settings
    listener = listen(settings.host, settings.listen_port)
    hang_up_on_silence(listener, settings.client_seconds)
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=_connections(house),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nobody here asks where a request came from
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_LAST_BYTES,
    )
    logger.info(
        "listening", extra={"data": {"url": f"http://{host}:{port}", "models": len(house.registry.opened)}}
    )
    with listener:
        Server(config, house).run(sockets=[listener])


def _connections(house: House) -> type[Connection]:
    settings = house.settings
    return connection_class(
        seconds=settings.client_seconds,
        most=most_connections(reserved=64 if settings.redis_url else 0),
        body_bytes=settings.body_bytes,
        refused=house.metrics.tasks["other"].rejected["connections"].inc,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, made before the application so that a taken port is one clear line."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
