"""The requests and answers of the Open Inference Protocol, version 2 (KServe, Triton)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Parameters = dict[str, Any]
Axis = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class InferInput(Struct):
    """A tensor of the request; its data stand here, or behind the JSON with a `binary_data_size`."""

    name: str
    shape: Annotated[list[Axis], Meta(min_length=1)]
    datatype: str
    data: list[Any] | UnsetType = UNSET
    parameters: Parameters = msgspec.field(default_factory=dict)


class InferOutput(Struct):
    """An output that is wanted; `binary_data` in its parameters sends it behind the JSON."""

    name: str
    parameters: Parameters = msgspec.field(default_factory=dict)


class InferRequest(Struct):
    """Without `outputs` all of them are sent, behind the JSON where `binary_data_output` is true."""

    inputs: list[InferInput]
    outputs: list[InferOutput] = msgspec.field(default_factory=list)
    id: str = ""
    parameters: Parameters = msgspec.field(default_factory=dict)


class Tensor(Struct):
    """An output of the answer."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str | float] | UnsetType = UNSET
    parameters: dict[str, int] | UnsetType = UNSET


class InferAnswer(Struct, omit_defaults=True):
    """`model_version` is the bundle's revision."""

    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str = ""


class TensorKind(Struct):
    """What a model takes or gives; -1 is the number of texts."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """Of one model; its only version is the bundle's revision."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorKind]
    outputs: list[TensorKind]


class ServerMetadata(Struct):
    """Of the service."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(Struct):
    """Whether a model answers."""

    name: str
    ready: bool


class ConfigTensor(Struct):
    """A tensor in Triton's words."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(Struct):
    """The part of Triton's model configuration that means something here."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class RepositoryEntry(Struct):
    """A model in Triton's index."""

    name: str
    version: str
    state: str
    reason: str = ""


class RepositoryRequest(Struct):
    """Which models are asked for; all are ready, so either way all are told."""

    ready: bool = False


class KserveError(Struct):
    """The protocol's error."""

    error: str


class CompletionParameters(Struct, forbid_unknown_fields=True):
    """The parameters of `infer` on a language model; what is left out is the model's default."""

    max_tokens: Annotated[int, Meta(ge=1, le=65536)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: str | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0


class TranslationParameters(Struct, forbid_unknown_fields=True):
    """The parameters of `infer` on a translator."""

    beam: Annotated[int, Meta(ge=1, le=32)] | None = None


class EmbeddingParameters(Struct, forbid_unknown_fields=True):
    """The parameters of `infer` on vectors."""

    dimensions: Annotated[int, Meta(ge=1)] | None = None
