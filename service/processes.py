"""Many requests, one step: processes that drive the decoders of bundle/, one interpreter each.

The event loop and whoever decodes would otherwise share an interpreter, and of two cores leave half of one
unused: each waits for the other's lock several times in a step. The processes are forked once the bundles are
open, so all of them read the same copy of the weights; each has some of the models, and steps one lane after
another as a thread of `service.batcher` does.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import multiprocessing
import pickle
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic

from bundle.language import Language
from bundle.translator import Translator
from service.errors import from_exception
from service.lane import PULSE, Lane, Pulse
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings, SettingsError
from service.tally import Counted
from service.ticket import Delivery, Ticket
from service.wire import Frames, Sender, adopt, framed
from service.worker import Asked, Change, Ended, Told, work
from service.workers import worker_dead

logger = logging.getLogger("voisin")

Decoding = Language | Translator
_PATIENCE = 5.0  # seconds for a process to end the step that it is in


def decode_in_processes(settings: Settings, registry: Registry) -> bool:
    """Whether processes are to decode, by `VOISIN_WORKERS` and what there is.

    Raises:
        SettingsError: they are asked for where they cannot be had.
    """
    models = registry.decoding.values()
    on_gpu = any(not model.provider.startswith("CPU") for model in models)
    possible = sys.platform == "linux" and not on_gpu
    if settings.workers == "processes" and not possible:
        reason = "what holds a GPU cannot be forked" if on_gpu else "they need Linux"
        raise SettingsError(f"VOISIN_WORKERS=processes: {reason}; take threads")
    wanted = settings.workers == "processes" or (settings.workers == "auto" and settings.worker_count > 1)
    return wanted and possible and bool(models)


class Processes:
    """`Workers` that are processes. Call `launch` before there is a thread or an event loop."""

    def __init__(
        self, models: Mapping[str, Decoding], *, processes: int, rows: int, metrics: Metrics
    ) -> None:
        """
        Args:
            models: by name.
            processes: how many; more than there are models are not started.
            rows: most rows of a decoder.
        """
        self.died_at: float | None = None
        self._models = dict(models)
        self._rows = rows
        self._processes = min(processes, len(self._models))
        shared = memoryview(mmap.mmap(-1, 8 * PULSE * max(1, len(self._models)))).cast("d")
        self._numbers = {name: shared[PULSE * i : PULSE * (i + 1)] for i, name in enumerate(self._models)}
        self.lanes = {name: Pulse(name, numbers) for name, numbers in self._numbers.items()}
        self._metrics = metrics
        self._tally = Counted(metrics)
        self._sender = Sender(self._models)
        self._links: list[_Link] = []
        self._link_of: dict[str, _Link] = {}
        self._tickets: dict[int, Ticket] = {}
        self._asked = count()

    def launch(self) -> None:
        """Fork."""
        context = multiprocessing.get_context("fork")
        ours: list[socket.socket] = []
        for number in range(self._processes):
            names = list(self._models)[number :: self._processes]
            mine, theirs = socket.socketpair()
            ours.append(mine)
            process = context.Process(
                target=work, args=(theirs, tuple(ours), partial(self._lanes, names)), name=f"decoder-{number}"
            )
            process.start()
            theirs.close()
            link = _Link(mine, process, self._told, self._lost)
            self._links.append(link)
            self._link_of |= dict.fromkeys(names, link)
            memory = self._metrics.worker_memory.labels(str(number))
            self._metrics.watch(memory, partial(_resident, process.pid))

    def _lanes(self, names: Sequence[str]) -> list[Lane]:
        """In a forked process: those that it steps."""
        adopt(self._models)
        makers = {name: partial(self._models[name].decoder, max_rows=self._rows) for name in names}
        return [Lane(name, make, self._numbers[name]) for name, make in makers.items()]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        for link in self._links:
            link.start(loop)

    def stop(self) -> None:
        for link in self._links:
            link.hang_up()
        until = monotonic() + _PATIENCE
        for link in self._links:
            link.end(until)

    def submit(self, ticket: Ticket) -> None:
        if self.died_at is not None:
            raise worker_dead()
        number, link = next(self._asked), self._link_of[ticket.model]
        asked = Asked(
            number, ticket.task, ticket.model, ticket.job, ticket.submitted, ticket.deadline, ticket.streams
        )
        try:
            data = self._sender.framed(tuple(asked))
        except Exception as error:  # a job that holds what cannot be sent: nobody else's trouble
            logger.exception("a job cannot be sent", extra={"data": {"model": ticket.model}})
            ticket.deliver(Delivery(ticket, [], from_exception(error)))
            return
        self._tally.queued(ticket.task)
        self._tickets[number] = ticket
        ticket.changed = partial(_changed, link, number)
        link.send(data)

    def _told(self, message: Told) -> None:
        """What a worker says."""
        entries, given = message
        self._tally.read(entries)
        for each in given:
            if len(each) == len(Ended._fields):
                ended = Ended(*each)
                ticket = self._tickets.pop(ended.number)
                ticket.changed = None
                ticket.started, ticket.first, ticket.finished = ended.started, ended.first, ended.finished
                ticket.tokens_out = ended.tokens_out
                ticket.deliver(Delivery(ticket, ended.pieces, ended.end))
            else:
                number, pieces = each
                ticket = self._tickets[number]
                ticket.deliver(Delivery(ticket, pieces))

    def _lost(self) -> None:
        """A worker has ended on its own."""
        if self.died_at is not None:
            return
        logger.error("a decoding process has ended")
        self.died_at = monotonic()
        for link in self._links:  # half a service is harder to notice than none
            link.hang_up()
        waiting, self._tickets = self._tickets, {}
        for ticket in waiting.values():
            ticket.changed = None
            ticket.deliver(Delivery(ticket, [], worker_dead()))


def _changed(link: _Link, number: int, ticket: Ticket) -> None:
    change: Change = number, None if ticket.gone else ticket.deadline
    link.send(framed(pickle.dumps(change)))


def _resident(process: int | None) -> float:
    """Bytes of memory that a process holds; none where it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * float(mmap.PAGESIZE)
    except (OSError, IndexError):
        return 0.0


class _Link:
    """The event loop's end of the way to a process."""

    def __init__(
        self, end: socket.socket, process: BaseProcess, told: Callable[[Told], None], lost: Callable[[], None]
    ) -> None:
        self._end = end
        self._process = process
        self._told = told
        self._lost = lost
        self._frames = Frames()
        self._unsent = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        end.setblocking(False)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._end, self._receive)

    def send(self, data: bytes) -> None:
        """Now, or as soon as the process has read what came before; never, where it has ended."""
        if self._loop is None:
            return
        if not self._unsent:
            data = data[self._sent(data) :]
            if not data:
                return
            self._loop.add_writer(self._end, self._send_more)
        self._unsent += data

    def _send_more(self) -> None:
        del self._unsent[: self._sent(self._unsent)]
        if not self._unsent and self._loop is not None:
            self._loop.remove_writer(self._end)

    def _sent(self, data: bytes | bytearray) -> int:
        try:
            return self._end.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # its end is closed, which `_receive` will see
            return len(data)

    def _receive(self) -> None:
        try:
            messages = self._frames.receive(self._end)
        except BlockingIOError:
            return
        except OSError:
            messages = None
        if messages is None:
            self.hang_up()
            self._lost()
            return
        for message in messages:
            self._told(message)

    def hang_up(self) -> None:
        """The process ends after the step that it is in."""
        if self._loop is not None:
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._loop = None
        self._end.close()

    def end(self, until: float) -> None:
        """Wait for its end, by the monotonic clock; then make it one."""
        self._process.join(max(0.0, until - monotonic()))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
