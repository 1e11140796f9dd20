"""Who runs where: the server, and whoever asks it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

Cores = frozenset[int]


def split(*, apart: bool = True) -> tuple[Cores, Cores]:
    """The server's cores and the clients'.

    Apart, the clients have the last core and the server the others: neither takes the other's time, and on a
    machine of two cores the server has one. Otherwise, or where there is one core, both have all.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not apart or len(cores) == 1:
        return frozenset(cores), frozenset(cores)
    return frozenset(cores[:-1]), frozenset(cores[-1:])


@contextmanager
def on(cores: Cores) -> Iterator[None]:
    """This thread, and the processes and threads it starts, run on `cores` while the block lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def told(server: Cores, clients: Cores) -> str:
    """Both, for the heading of a table."""
    shown = [", ".join(map(str, sorted(each))) for each in (server, clients)]
    if server == clients:
        return f"server and clients on core {shown[0]}"
    return f"server on core {shown[0]}, clients on core {shown[1]}"
