"""`python -m tests.faults.sabotaged`: the service, with a handle on its decoding threads or processes.

SIGUSR1: the next turn of a lane ends its worker. SIGUSR2: the next turn never comes back, as a kernel that
hangs in a driver would. Whatever has forked from the service has the same handle. It is otherwise the one
that users run; its patience is shortened.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import service.health
import service.lane
from service.__main__ import main

LIVE_GRACE = 1.5


class Death(BaseException):
    """What no `except Exception` stops."""


def sabotage() -> None:
    """Arm the two signals."""
    turn = service.lane.Lane.turn
    orders: list[str] = []
    service.health.LIVE_GRACE = LIVE_GRACE

    def sabotaged(lane: Any, *arguments: Any) -> Any:
        order = orders.pop() if orders and lane.name == "slow-xx" else ""
        if order == "die":
            raise Death
        if order == "hang":
            threading.Event().wait()
        return turn(lane, *arguments)

    service.lane.Lane.turn = sabotaged  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, lambda *_: orders.append("die"))
    signal.signal(signal.SIGUSR2, lambda *_: orders.append("hang"))


if __name__ == "__main__":
    sabotage()
    sys.exit(main([]))
