"""How likely a model finds a prompt itself, token by token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.completion import Piece, TokenLogprob
from bundle.decoding import Event, Request, Token
from bundle.errors import InvalidRequest
from bundle.stepper import Prompt
from bundle.tokenizer import Detokenizer, Tokenizer


class PromptScoringJob:
    """A prompt that is generated again, each of its tokens being the only one allowed in its place.

    So its log-probabilities come out of the same decoder, in the same batches, as those of an answer. The
    first token has one, too: our models begin with <bos>.

    Attributes:
        requests: one request, none for an empty prompt.
        cost: tokens that are computed, for admission.
        done: whether :meth:`result` is there.
    """

    def __init__(self, tokenizer: Tokenizer, bos: int, ids: Sequence[int], *, top: int) -> None:
        self._ids = tuple(ids)
        self._size = tokenizer.size
        self._text = Detokenizer(tokenizer)
        self._characters = 0
        self._found: list[TokenLogprob] = []
        self.done = not ids
        self.cost = 1 + len(ids)
        self.requests: list[Request] = []
        if ids:
            self.requests = [
                Request(Prompt((bos,)), max_tokens=len(ids), allow=self._allow, top_logprobs=top)
            ]

    def feed(self, index: int, event: Event) -> list[Piece]:
        """Take an event of the request; nothing is shown before the end.

        Raises:
            InvalidRequest: the prompt has a token that is never chosen (<unk>): it has no probability.
        """
        if isinstance(event, Token):
            self._found.append(TokenLogprob(event.id, event.logprob, self._characters, event.top))
            self._characters += len(self._text.feed(event.id))
            return []
        if event.reason == "stop" and len(self._found) < len(self._ids):
            raise InvalidRequest("prompt", "has a word that the vocabulary lacks: it has no probability")
        self.done = True
        return []

    def result(self) -> list[TokenLogprob]:
        """The tokens of the prompt, in order."""
        return self._found

    def _allow(self, generated: Sequence[int]) -> NDArray[np.bool_]:
        mask = np.zeros(self._size, np.bool_)
        mask[self._ids[len(generated)]] = True
        return mask
