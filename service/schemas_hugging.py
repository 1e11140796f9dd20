"""Hugging Face's requests and answers: Text Embeddings Inference, and what InferenceClient sends to a URL."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.schemas import Lang, Name
from service.schemas_openai import Texts


class EmbedRequest(Struct, forbid_unknown_fields=True):
    """TEI's request; `model` and `lang` are ours. Without them the first vectors answer, to any text."""

    inputs: Annotated[Texts, Meta(description="a text, texts, the ids of a text, or of texts")]
    normalize: Annotated[bool, Meta(description="unit vectors; else the mean as it is")] | None = True
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    truncate: Annotated[bool, Meta(description="read, and needless: nothing is cut")] | None = False
    truncation_direction: str | None = None
    prompt_name: Annotated[str, Meta(description="refused: no model here has prompts")] | None = None
    encoding_format: Literal["float"] | None = None
    model: Name | None = None
    lang: Lang | None = None


class TeiSimilarityInputs(Struct, forbid_unknown_fields=True):
    """A text and those it is compared with."""

    source_sentence: str
    sentences: Annotated[list[str], Meta(min_length=1)]


class TeiSimilarityParameters(Struct, forbid_unknown_fields=True):
    """Read as those of `/embed` are."""

    truncate: bool | None = False
    truncation_direction: str | None = None
    prompt_name: str | None = None


class TeiSimilarityRequest(Struct, forbid_unknown_fields=True):
    """TEI's request; `model` and `lang` are ours."""

    inputs: TeiSimilarityInputs
    parameters: TeiSimilarityParameters | None = None
    model: Name | None = None
    lang: Lang | None = None


class AnyRequestBody(Struct):
    """What InferenceClient posts. The model's kind, or the shape of the body, says what is asked."""

    inputs: str | list[str | int | list[int]] | dict[str, Any]
    parameters: dict[str, Any] | None = None
    stream: bool | UnsetType | None = UNSET
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    encoding_format: str | None = None


class GenerationParameters(Struct, forbid_unknown_fields=True):
    """Those of text-generation-inference that mean something here; the others are refused by name."""

    best_of: Annotated[int, Meta(ge=1, le=32)] | None = None
    details: bool | None = False
    do_sample: bool | None = False
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1, le=65536)] | None = None
    return_full_text: bool | None = False
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[list[str], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    top_n_tokens: Annotated[int, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    decoder_input_details: Literal[False] | None = None
    watermark: Literal[False] | None = None


class TranslationWishes(Struct, forbid_unknown_fields=True):
    """The parameters of a translation."""

    src_lang: str | None = None
    tgt_lang: str | None = None
    clean_up_tokenization_spaces: bool | None = None
    generate_parameters: dict[str, Any] | None = None
    truncation: str | None = None


class GeneratedToken(Struct):
    """A token of an answer."""

    id: int
    text: str
    logprob: float
    special: bool = False


class GenerationDetails(Struct):
    """Where `details` were asked for."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int | None
    prefill: list[GeneratedToken]
    tokens: list[GeneratedToken]
    top_tokens: list[list[GeneratedToken]] | UnsetType = UNSET


class Generated(Struct, omit_defaults=True):
    """A completion."""

    generated_text: str
    details: GenerationDetails | None = None


class StreamDetails(Struct):
    """The end of a stream."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int | None
    input_length: int


class GeneratedPiece(Struct):
    """Data of an event of a stream; the last one has the whole text."""

    index: int
    token: GeneratedToken
    generated_text: str | None = None
    details: StreamDetails | None = None


class TranslationText(Struct):
    """A translation."""

    translation_text: str


class HuggingError(Struct):
    """TEI's error, and that of text-generation-inference, which writes its types small."""

    error: str
    error_type: str
