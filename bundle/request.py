"""What is asked of a decoder, and what it answers: requests, and the events that tell how they go on."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bundle.beam import Reason
from bundle.outlook import Mask
from bundle.stepper import Array, Prompt


@dataclass(frozen=True)
class Request:
    """What is to be generated after a prompt, and how.

    Attributes:
        n: choices. Sampled ones differ by their random numbers; with ``beam > 1`` they are its n best.
        beam: width of the beam search; 1 is greedy, or sampling when ``temperature > 0``.
        allow: from the ids generated so far to the tokens that may follow; None = all.
        closing: from the ids generated so far to the tokens that would end the answer here without belonging
            to it (the space after a last word). With eos they are one outcome, of their joint probability.
        stop: whether a choice is finished with the ids generated so far.
        adjust: changes the logits of a row in place, from the ids generated so far (penalties, biases).
        outcome: of a beam search, what its ids come to (their text): hypotheses that come to the same are one
            choice, of their joint probability. Without length penalty only.
        top_logprobs: how many of the likeliest tokens every ``Token`` names beside its own; not for beams.
    """

    prompt: Prompt
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    n: int = 1
    beam: int = 1
    length_penalty: float = 1.0
    allow: Callable[[Sequence[int]], Mask | None] | None = None
    closing: Callable[[Sequence[int]], Mask | None] | None = None
    stop: Callable[[Sequence[int]], bool] | None = None
    adjust: Callable[[Sequence[int], Array], None] | None = None
    outcome: Callable[[Sequence[int]], Hashable] | None = None
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.n < 1 or self.beam < 1:
            raise ValueError("max_tokens, n and beam are at least 1")
        if self.beam > 1 and (self.n > self.beam or self.temperature > 0.0):
            raise ValueError("a beam search is not sampled, and gives no more choices than it is wide")
        if self.beam > 1 and self.top_logprobs:
            raise ValueError("a beam search sends no tokens that could name others")
        if self.beam > 1 and self.adjust is not None:
            raise ValueError("a beam search ranks by the model's own probabilities")
        if self.outcome is not None and (self.beam == 1 or self.length_penalty != 0.0):
            raise ValueError("outcomes are those of a beam search without length penalty")

    @property
    def rows(self) -> int:
        """Most rows that the request takes at once."""
        return max(self.n, self.beam)


class Token(NamedTuple):
    """One more token of a choice. ``logprob`` is the raw model's. Beams send none until they finish.

    ``top`` are the likeliest ids in its place, with their raw log-probabilities, likeliest first.
    """

    tag: Hashable
    choice: int
    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Finished(NamedTuple):
    """The end of a choice. ``ids`` lack eos, whose log-probability is in the sum ``logprob``.

    ``left`` choices of the same request are still to finish; a beam search may come to fewer than were asked.
    """

    tag: Hashable
    choice: int
    ids: tuple[int, ...]
    logprob: float
    reason: Reason
    left: int = 0


Event = Token | Finished
