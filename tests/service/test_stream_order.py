"""What a step gives reaches the client before what the next step gives, whichever threads made them."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from service.batcher import Batcher
from service.metrics import Metrics
from service.ticket import Delivery, Ticket


class Hesitant(Batcher):
    """What the first step gives is held up on its way, for as long as the next step may overtake it."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._overtaken = threading.Event()
        self._held = False

    def _post(self, deliveries: list[Delivery]) -> None:
        if not self._held:
            self._held = True
            self._overtaken.wait(1.0)
            super()._post(deliveries)
        else:
            super()._post(deliveries)
            self._overtaken.set()


def test_pieces_come_in_their_order(models: Path) -> None:
    model = open_bundle(models / "slow-xx")
    assert isinstance(model, Language)
    options = CompletionOptions("char", 12, temperature=1.0, seed=1)
    wanted = model.complete("a", options)[0].text

    async def stream() -> str:
        batcher = Hesitant({"slow-xx": model.decoder}, threads=4, metrics=Metrics())
        batcher._wanted = 4  # as many as there are in a house with several models
        batcher.start(asyncio.get_running_loop())
        pieces: list[str] = []
        job = model.job("a", options)
        ticket = Ticket(
            "complete", "slow-xx", job, lambda _: b"", deadline=time.monotonic() + 60,
            pieces=lambda some: pieces.extend(each.text for each in some),
        )  # fmt: skip
        batcher.submit(ticket)
        await ticket.result
        batcher.stop()
        return "".join(pieces)

    assert asyncio.run(stream()) == wanted
