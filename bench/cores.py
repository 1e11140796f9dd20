"""Who runs where: the server on its cores, whoever asks on the others; neither takes the other's time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

Cores = frozenset[int]


def split() -> tuple[Cores, Cores]:
    """The server's cores, all but the last of this process's, and the clients', the last.

    On a machine of one core both have that one.
    """
    cores = sorted(os.sched_getaffinity(0))
    return frozenset(cores[:-1] or cores), frozenset(cores[-1:])


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
    return f"server on core {shown[0]}, clients on core {shown[1]}"
