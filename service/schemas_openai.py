"""OpenAI's requests and answers. Its clients send more than we read, so unknown members are no error here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bundle.completion import TokenLogprob
from service.errors import invalid
from service.schemas import Choice, Name

Texts = str | list[str | int | list[int]]
"""One text, several, one as ids of tokens, or several as ids: which of them, is seen at the items."""

Bias = Annotated[float, Meta(ge=-100, le=100)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(Struct):
    """What a stream tells beside its text."""

    include_usage: Annotated[bool, Meta(description="one more chunk, without choices, with the usage")] = (
        False
    )


class CompletionsRequest(Struct, kw_only=True):
    """OpenAI's request; `top_k` is ours. A member that is null counts as left out."""

    model: Name
    prompt: (
        Annotated[
            Texts, Meta(description="a text, texts, the ids of a text, or of texts; nothing = a new text")
        ]
        | None
    ) = None
    best_of: (
        Annotated[int, Meta(ge=1, le=32, description="so many are drawn, the `n` likeliest a token are sent")]
        | None
    ) = None
    echo: Annotated[bool, Meta(description="begin with the prompt, also in `logprobs`")] | None = False
    frequency_penalty: Penalty | None = 0.0
    logit_bias: (
        Annotated[dict[str, Bias], Meta(max_length=1024, description="from the id of a token")] | None
    ) = None
    logprobs: (
        Annotated[int, Meta(ge=0, le=5, description="name so many of the likeliest tokens in each place")]
        | None
    ) = None
    max_tokens: (
        Annotated[int, Meta(ge=0, le=65536, description="0 only with `echo`; 16 if left out")] | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=32, description="choices for each prompt")] | None = 1
    presence_penalty: Penalty | None = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, description="same seed, same text")] | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    suffix: Annotated[str, Meta(description="refused: no model here fills a gap")] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 = the likeliest")] | None = 1.0
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000, description="0 and -1 = all")] | None = 0
    user: str | None = None


class ToldChoice(Choice):
    """A choice as the cache holds it where the log-probabilities of its tokens were asked for."""

    logprobs: list[TokenLogprob] = msgspec.field(default_factory=list)


class Logprobs(Struct):
    """Of each token; `top_logprobs` has the likeliest and itself, `text_offset` counts characters."""

    tokens: list[str] = []
    token_logprobs: list[float] = []
    top_logprobs: list[dict[str, float]] = []
    text_offset: list[int] = []


class CompletionsChoice(Struct):
    """`index` is the prompt's place times `n`, plus the choice's. A stream's last chunk has the reason."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length", "cancelled"] | None = None


class CompletionsUsage(Struct):
    """Tokens; those of choices that `best_of` dropped, too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionsAnswer(Struct, kw_only=True):
    """OpenAI's answer, and each chunk of its stream. `system_fingerprint` is the bundle's revision."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionsChoice]
    usage: CompletionsUsage | UnsetType | None = UNSET
    system_fingerprint: str


class EmbeddingsRequest(Struct):
    """OpenAI's request; an input is a word, a phrase or a short text, or the ids of words."""

    input: Annotated[Texts, Meta(description="a text, texts, the ids of a text, or of texts")]
    model: Name
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: (
        Annotated[int, Meta(ge=1, description="the first so many, made a unit vector again")] | None
    ) = None
    user: str | None = None


class Embedding(Struct):
    """A unit vector; base64 is that of little-endian float32. `unknown_words` had no part in it."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"
    unknown_words: list[str] | UnsetType = UNSET


class Usage(Struct):
    """One token a word."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct):
    """OpenAI's answer."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: str = "list"


class ModelCard(Struct, kw_only=True):
    """OpenAI's model object; what follows `owned_by` is ours."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "voisin"
    kind: Literal["vectors", "language", "translator"]
    level: str
    languages: list[str]
    aliases: list[str]
    revision: str
    scores: list[dict[str, Any]] | UnsetType = UNSET


class ModelList(Struct):
    """OpenAI's list."""

    data: list[ModelCard]
    object: str = "list"


class ErrorMembers(Struct):
    """`param` is the member at fault."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class ErrorBody(Struct):
    """OpenAI's error."""

    error: ErrorMembers


def listed(value: Texts, field: str) -> list[str | list[int]]:
    """The texts of a request, each as itself or as ids.

    Raises:
        Problem: strings, numbers and lists stand side by side in `field`.
    """
    if isinstance(value, str):
        return [value]
    kinds = {type(item) for item in value}
    if kinds <= {str} or kinds <= {list}:
        return [item for item in value if not isinstance(item, int)]
    if kinds == {int}:
        return [[item for item in value if isinstance(item, int)]]
    raise invalid(field, "must have strings, or integers, or lists of integers: all of one kind")
