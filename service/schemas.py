"""What requests may hold and what answers hold. The bounds here are hard; VOISIN_* settings may be tighter.

A field that is not named here is refused, but on OpenAI's routes, whose clients send more than we read.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Word = Annotated[str, Meta(min_length=1, max_length=200, description="a word or phrase, spelt as people do")]
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Topn = Annotated[int, Meta(ge=1, le=1000, description="how many neighbours")]
Words = Annotated[list[Word], Meta(max_length=32)]
RestrictVocab = Annotated[
    int,
    Meta(ge=0, le=2**31, description="only the first so many words, the most frequent, are answers; 0 = all"),
]
Lang = Annotated[
    str, Meta(min_length=1, max_length=20, description="language code; left out, it is found out")
]


class ModelName(Struct):
    """The bundle that answered."""

    name: str
    revision: str


class SimilarQuery(Struct, forbid_unknown_fields=True):
    """Nearest words of a word. Without `lang`, the first language that knows it."""

    word: Word
    topn: Topn = 10
    restrict_vocab: RestrictVocab = 0
    lang: Lang | None = None
    model: Name | None = None


class SimilarRequest(Struct, forbid_unknown_fields=True):
    """Words nearest to the sum of `positive` minus the sum of `negative`: king - man + woman."""

    positive: Words = []
    negative: Words = []
    topn: Topn = 10
    restrict_vocab: RestrictVocab = 0
    method: Annotated[
        Literal["add", "multiply"],
        Meta(description="`add` sums vectors (3CosAdd), `multiply` multiplies cosines (3CosMul)"),
    ] = "add"  # fmt: skip
    lang: Lang | None = None
    model: Name | None = None


class Neighbour(Struct):
    """A word and its cosine with the query."""

    word: str
    score: float


class SimilarAnswer(Struct, kw_only=True):
    """`word` echoes a GET, `positive` and `negative` a POST. `seen` is there, and false, where a word of the
    query was never seen in training and its vector comes from its character n-grams."""

    word: str | UnsetType = UNSET
    positive: list[str] | UnsetType = UNSET
    negative: list[str] | UnsetType = UNSET
    seen: bool | UnsetType = UNSET
    neighbours: msgspec.Raw
    model: ModelName


class CompleteRequest(Struct, forbid_unknown_fields=True):
    """A prompt to be continued. What is left out is taken from the model's manifest."""

    prompt: str
    level: Annotated[
        Literal["char", "word"],
        Meta(description="`word` completes the word being typed, then appends whole words; known ones only"),
    ] | None = None  # fmt: skip
    lang: Lang | None = None
    model: Name | None = None
    max_tokens: (
        Annotated[int, Meta(ge=1, le=65536, description="tokens; words where level is word")] | None
    ) = None
    n: Annotated[int, Meta(ge=1, le=32, description="choices; the n best where temperature is 0")] = 1
    beam: Annotated[int, Meta(ge=1, le=32)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 = the likeliest")] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000, description="0 = all")] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="same seed, same text")] | None = None
    stop: Annotated[str | list[str], Meta(description="the text ends before the first of these")] = []
    stream: Annotated[bool, Meta(description="server-sent events: `token`, then `done` or `error`")] = False


class Choice(Struct, omit_defaults=True):
    """`logprob` is the sum over the `tokens`; `word` (level word) the completed first word."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    logprob: float
    word: str | None = None
    tokens: int = 0


class CompleteAnswer(Struct):
    """Best, or first drawn, first. `known` is there, and false, where level is `word` and no known word
    begins with the letters typed: then a model of characters, where there is one, goes on (see `model`)."""

    completions: msgspec.Raw
    model: ModelName
    known: bool | UnsetType = UNSET


class TokenEvent(Struct):
    """Data of an SSE `token`: more text of a choice. Joined they are the whole text."""

    choice: int
    text: str


class TranslateRequest(Struct, forbid_unknown_fields=True):
    """LibreTranslate's request; `beam`, `scores`, `alignments`, `glossary` and `model` are ours."""

    q: str | list[str]
    source: Name
    target: Name
    format: Annotated[str, Meta(description="`text`, or `html`: only what a reader sees is translated")] = (
        "text"
    )
    alternatives: Annotated[int, Meta(ge=0, le=16)] = 0
    beam: Annotated[int, Meta(ge=1, le=32)] | None = None
    scores: Annotated[bool, Meta(description="add the mean log-probability of a token")] = False
    alignments: Annotated[bool, Meta(description="add which word became which")] = False
    glossary: Annotated[
        str | list[str] | dict[str, str],
        Meta(description="terms to keep, or terms and what each becomes; whole words, spelt exactly so"),
    ] = []
    model: Name | None = None
    api_key: str | None = None
    secret: str | None = None


class Alignment(Struct):
    """A word of the translation and the word of the source that it stands for, as [start, end) characters of
    `translatedText` and `q`, and how sure that is, from 0 to 1."""

    source: tuple[int, int]
    target: tuple[int, int]
    weight: float


class Translated(Struct):
    """One translated text, as the cache holds it."""

    text: str
    alternatives: list[str]
    score: float
    truncated: bool
    alignments: list[Alignment] = []


class Detected(Struct):
    """`confidence` goes from 0 to 100."""

    confidence: float
    language: str


class TranslateAnswer(Struct, omit_defaults=True):
    """Lists where `q` was a list. `truncated` is there when a sentence came to the model's length limit."""

    translated_text: str | list[str] = msgspec.field(name="translatedText")
    model: ModelName | list[ModelName] | UnsetType = UNSET
    detected_language: Detected | list[Detected] | UnsetType = msgspec.field(
        name="detectedLanguage", default=UNSET
    )
    alternatives: list[str | list[str]] | UnsetType = UNSET
    scores: float | list[float] | UnsetType = UNSET
    alignments: list[Alignment | list[Alignment]] | UnsetType = UNSET
    truncated: bool = False


class DetectRequest(Struct, forbid_unknown_fields=True):
    """A text whose language is asked for, or several."""

    q: str | list[str]
    api_key: str | None = None


class ServedLanguage(Struct):
    """A language and what it can be translated into; itself, for LibreTranslate's clients, too."""

    code: str
    name: str
    targets: list[str]


class LanguageName(Struct):
    """A choice of LibreTranslate's front end."""

    code: str
    name: str


class FrontendLanguages(Struct):
    """What its two menus show first."""

    source: LanguageName
    target: LanguageName


class FrontendSettings(Struct, rename="camel"):
    """What LibreTranslate's front end asks before it shows itself. Timeouts are in milliseconds."""

    char_limit: int
    language: FrontendLanguages
    api_keys: bool = False
    key_required: bool = False
    frontend_timeout: int = 500
    suggestions: bool = False
    files_translation: bool = False
    supported_files_format: list[str] = []
