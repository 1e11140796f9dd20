"""When cycles of objects are looked for: while nobody waits.

The collector of CPython stops its process for as long as it takes to walk through what is alive, up to a
tenth of a second with a thousand connections open, and it begins whenever enough was made, above all under
load. What we make leaves no cycles, so there is time.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

_SOME = 10_000  # objects made and not freed since the last collection: worth an idle moment
_MANY = 500_000  # some hundred MB, so it cannot wait
_EVERY = 1.0  # seconds


def collect(*, idle: bool) -> None:
    """Look for cycles where it is worth the time; `gc.disable` first, or nothing is won."""
    if gc.get_count()[0] > (_SOME if idle else _MANY):  # counts on where it is disabled
        gc.collect()


async def collect_in_peace(busy: Callable[[], bool]) -> None:
    """Take over from the automatic collector until cancelled."""
    gc.disable()
    try:
        while True:
            await asyncio.sleep(_EVERY)
            collect(idle=not busy())
    finally:
        gc.enable()
