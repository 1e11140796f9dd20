"""Text from a torch model, by ``bundle.decoding``: the loop that answers users is the loop that is scored."""

from __future__ import annotations

from collections.abc import Sequence

from bundle.decoding import Decoder, Request, run
from bundle.stepper import Prompt, Stepper
from bundle.tokenizer import Tokenizer
from training.models import Translator
from training.models.contract import Model
from training.models.graph import TorchGraph


def complete(model: Model, tokenizer: Tokenizer, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
    """Greedy continuations of prompts."""
    bos = _known(tokenizer.special.bos)
    rows = [Prompt((bos, *tokenizer.encode(prompt))) for prompt in prompts]
    return _generate(model, tokenizer, [Request(prompt=row, max_tokens=max_tokens) for row in rows])


def translate(
    model: Model,
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    *,
    max_tokens: int = 100,
    beam: int = 1,
    length_penalty: float = 1.0,
) -> list[str]:
    """Translations of sentences, each as one source."""
    bos, eos = _known(tokenizer.special.bos), _known(tokenizer.special.eos)
    rows = [Prompt((bos,), (*tokenizer.encode(sentence), eos)) for sentence in sentences]
    requests = [
        Request(prompt=row, max_tokens=max_tokens, beam=beam, length_penalty=length_penalty) for row in rows
    ]
    return _generate(model, tokenizer, requests)


def _generate(model: Model, tokenizer: Tokenizer, requests: Sequence[Request]) -> list[str]:
    """The first choice of each request, by the decoder that serves."""
    pad, eos = tokenizer.special.pad or 0, _known(tokenizer.special.eos)
    encoder = TorchGraph(model, "encode") if isinstance(model, Translator) else None
    decoder = Decoder(
        Stepper(TorchGraph(model), encoder, pad=pad), eos=eos, pad=pad, banned=tokenizer.special_ids
    )
    return [tokenizer.decode(choices[0].ids) for choices in run(decoder, requests)]


def _known(id: int | None) -> int:
    if id is None:
        raise ValueError("the tokenizer lacks <bos> or <eos>")
    return id
