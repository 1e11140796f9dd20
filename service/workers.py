"""What decodes beside the event loop: threads (`service.batcher`) or processes (`service.processes`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from service.errors import Problem, unavailable
from service.lane import Pulse
from service.ticket import Ticket

_NICER = 4  # than the event loop, see getpriority(2)

give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # POSIX's


class Workers(Protocol):
    """Takes tickets from the event loop, gives deliveries back to it."""

    died_at: float | None
    """When one of them ended on its own, by the monotonic clock."""

    @property
    def lanes(self) -> Mapping[str, Pulse]:
        """Model name -> how its lane is."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work begins."""

    def stop(self) -> None:
        """End them after the step they are in. What still waits is not answered: drain first."""

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket; its deliveries arrive on the event loop.

        Raises:
            Problem: 503 where a worker has died.
        """


def worker_dead() -> Problem:
    """What is answered from the death of a worker until the service is restarted."""
    return unavailable("worker_dead", "what decodes has ended; this process will be restarted")


def step_back() -> None:
    """Let the event loop go first where both want the core: what it does takes microseconds, a step does not.

    Niceness is a thread's own on Linux; elsewhere nothing is changed.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)
