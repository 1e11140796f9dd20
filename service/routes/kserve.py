"""The Open Inference Protocol, version 2: what KServe and Triton's clients speak. Health is in probes.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from bundle.language import CompletionOptions, Language
from bundle.load import Model
from bundle.translator import TranslationOptions
from bundle.vectors import Vectors
from service import VERSION
from service.errors import Problem, invalid
from service.house import House
from service.parsing import AnyRequest, read_json
from service.pooling import pool, shorten
from service.registry import Opened
from service.responses import Answer, Json
from service.routes import described
from service.routes.embeddings import readings
from service.routes.models import opened
from service.routes.texts import check_texts, continued, own_level, task_of, translated
from service.schemas_kserve import (
    CompletionParameters,
    ConfigTensor,
    EmbeddingParameters,
    InferAnswer,
    InferRequest,
    KserveError,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    RepositoryEntry,
    RepositoryRequest,
    ServerMetadata,
    Tensor,
    TensorKind,
    TranslationParameters,
)
from service.tensors import inflate, raw, split, texts_of
from service.trace import trace_of

PLATFORM = "onnxruntime_onnx"
HEADER_LENGTH = "inference-header-content-length"

Values = Sequence[str] | np.ndarray[Any, Any]
P = TypeVar("P", bound=msgspec.Struct)

# Of the protocol and of Triton's clients; the others are the models'.
_TRANSPORT = frozenset({"binary_data_output"})
_REFUSED = {
    "priority": "requests are answered in turn",
    "timeout": "VOISIN_DEADLINE_SECONDS bounds every request",
    "sequence_id": "no model keeps a state between requests",
    "sequence_start": "no model keeps a state between requests",
    "sequence_end": "no model keeps a state between requests",
}


def input_of(model: Model) -> str:
    return "prompt" if isinstance(model, Language) else "text"


def outputs_of(model: Model) -> list[TensorKind]:
    """What `infer` gives, first what matters most."""
    if isinstance(model, Vectors):
        return [TensorKind("embedding", "FP32", [-1, dimensions(model)])]
    if isinstance(model, Language):
        return [
            TensorKind("completion", "BYTES", [-1]),
            TensorKind("finish_reason", "BYTES", [-1]),
            TensorKind("logprob", "FP32", [-1]),
        ]
    return [TensorKind("translation", "BYTES", [-1]), TensorKind("score", "FP32", [-1])]


def dimensions(vectors: Vectors) -> int:
    first = next(id for id in range(vectors.tokenizer.size) if id not in vectors.tokenizer.special_ids)
    return int(vectors.embed([vectors.tokenizer.token_of(first)]).shape[1])


def parameters(request: InferRequest, shape: type[P]) -> P:
    """The model's parameters, checked.

    Raises:
        Problem, msgspec.ValidationError: one that the model does not take, or out of bounds.
    """
    for name in request.parameters:
        if name in _REFUSED:
            raise invalid("parameters", f"{name} is not supported: {_REFUSED[name]}", code="unsupported")
    given = {name: value for name, value in request.parameters.items() if name not in _TRANSPORT}
    return msgspec.convert(given, shape)


async def compute(
    house: House, request: AnyRequest, model: Model, asked: InferRequest, texts: list[str]
) -> dict[str, Values]:
    """Every output of the model for these texts."""
    trace_of(request.scope).task = task_of(model)
    if isinstance(model, Vectors):
        wanted = parameters(asked, EmbeddingParameters).dimensions
        rows = pool(model, readings(house, model, "inputs", [*texts]))
        if wanted is not None:
            rows = [shorten(row, wanted) for row in rows]
        return {"embedding": np.stack(rows)}
    if isinstance(model, Language):
        wishes = parameters(asked, CompletionParameters)
        options = CompletionOptions(
            level=own_level(model),
            max_tokens=wishes.max_tokens,
            temperature=wishes.temperature,
            top_k=wishes.top_k,
            top_p=wishes.top_p,
            seed=wishes.seed,
            stop=() if wishes.stop is None else (wishes.stop,),
            presence_penalty=wishes.presence_penalty,
            frequency_penalty=wishes.frequency_penalty,
        )
        choices = await continued(house, request, model, texts, options)
        return {
            "completion": [each.text for each in choices],
            "finish_reason": [each.finish_reason for each in choices],
            "logprob": np.array([each.logprob for each in choices], np.float32),
        }
    beam = parameters(asked, TranslationParameters).beam
    found = await translated(house, request, model, texts, TranslationOptions(beam=beam))
    return {
        "translation": [each.text for each in found],
        "score": np.array([each.score for each in found], np.float32),
    }


def wanted(asked: InferRequest, kinds: list[TensorKind]) -> dict[str, bool]:
    """The outputs to send, and whether behind the JSON.

    Raises:
        Problem: one that the model does not have, twice the same, or a classification.
    """
    if not asked.outputs:
        binary = asked.parameters.get("binary_data_output") is True
        return {kind.name: binary for kind in kinds}
    names = [kind.name for kind in kinds]
    found: dict[str, bool] = {}
    for each in asked.outputs:
        if each.name not in names or each.name in found:
            raise invalid(
                "outputs", f"{each.name[:32]} is not an output, or twice; there are {', '.join(names)}"
            )
        for unsupported in ("classification", "shared_memory_region"):
            if each.parameters.get(unsupported):
                raise invalid("outputs", f"{unsupported} is not supported", code="unsupported")
        found[each.name] = each.parameters.get("binary_data") is True
    return found


def written(each: Opened, asked: InferRequest, values: dict[str, Values], sent: dict[str, bool]) -> Answer:
    """The answer as JSON, with the binary outputs behind it in their order."""
    body = InferAnswer(each.name, each.manifest.revision, [], asked.id)
    tail: list[bytes] = []
    for name, binary in sent.items():
        value = values[name]
        numbers = isinstance(value, np.ndarray)
        shape = list(value.shape) if isinstance(value, np.ndarray) else [len(value)]
        tensor = Tensor(name, "FP32" if numbers else "BYTES", shape)
        if binary:
            tail.append(raw(value))
            tensor.parameters = {"binary_data_size": len(tail[-1])}
        else:
            tensor.data = value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)
        body.outputs.append(tensor)
    if not any(sent.values()):
        return Json(body)
    head = msgspec.json.encode(body)
    return Answer(
        head + b"".join(tail),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(head))},
    )


def metadata(each: Opened) -> ModelMetadata:
    taken = [TensorKind(input_of(each.model), "BYTES", [-1])]
    return ModelMetadata(each.name, [each.manifest.revision], PLATFORM, taken, outputs_of(each.model))


def config(house: House, each: Opened) -> ModelConfig:
    def named(kinds: list[TensorKind]) -> list[ConfigTensor]:
        types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
        return [ConfigTensor(kind.name, types[kind.datatype], kind.shape) for kind in kinds]

    told = metadata(each)
    # 0: the first axis is the tensors' own, not one that Triton would add
    return ModelConfig(each.name, PLATFORM, "onnxruntime", 0, named(told.inputs), named(told.outputs))


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET /v2, /v2/models/...; POST .../infer, /v2/repository/index."""

    def model_of(request: AnyRequest) -> Opened:
        each = opened(house.registry, request.path_params["name"])
        version = request.path_params.get("version", each.manifest.revision)
        if version != each.manifest.revision:
            raise Problem(
                404, "unknown_version", f"the only version of {each.name} is {each.manifest.revision}"
            )
        trace_of(request.scope).revision = each.manifest.revision
        return each

    def both(tail: str = "") -> list[str]:
        return [f"/v2/models/{{name:str}}{tail}", f"/v2/models/{{name:str}}/versions/{{version:str}}{tail}"]

    @get("/v2", opt=described("meta", "KServe's server metadata", answer=ServerMetadata, error=KserveError))
    async def server(request: AnyRequest) -> Json:
        extensions = ["binary_tensor_data", "model_configuration"]
        return Json(ServerMetadata("voisin", VERSION, extensions))

    @get(both(), opt=described("meta", "KServe's model metadata", answer=ModelMetadata, error=KserveError))
    async def about(request: AnyRequest) -> Json:
        return Json(metadata(model_of(request)))

    @get(
        both("/config"),
        opt=described("meta", "Triton's configuration", answer=ModelConfig, error=KserveError),
    )
    async def configuration(request: AnyRequest) -> Json:
        return Json(config(house, model_of(request)))

    @get(
        both("/ready"), opt=described("meta", "Does this model answer?", answer=ModelReady, error=KserveError)
    )
    async def ready(request: AnyRequest) -> Json:
        each = model_of(request)
        # a reason without a model concerns all of them
        unwell = [reason for reason in house.health.reasons() if reason.model in (None, each.name)]
        return Json(ModelReady(each.name, not unwell), status=503 if unwell else 200)

    @post(
        "/v2/repository/index",
        status_code=200,
        opt=described(
            "meta",
            "Triton's list of models",
            body=RepositoryRequest,
            answer=list[RepositoryEntry],
            error=KserveError,
            example={"ready": True},
        ),
    )
    async def index(request: AnyRequest) -> Json:
        if await request.body():
            await read_json(request, RepositoryRequest)
        return Json([RepositoryEntry(each.name, each.manifest.revision, "READY") for each in house.registry])

    @post(
        both("/infer"),
        status_code=200,
        opt=described(
            "other",
            "Vectors, completions or translations of texts, by the kind of the model",
            body=InferRequest,
            answer=InferAnswer,
            error=KserveError,
            also=["application/octet-stream"],
            takes=["application/octet-stream"],
            example={"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["king"]}]},
        ),
    )
    async def infer(request: AnyRequest) -> Answer:
        each = model_of(request)
        encoding = request.headers.get("content-encoding", "").lower()
        body = inflate(await request.body(), encoding, house.settings.body_bytes)
        asked, tail = split(body, request.headers.get(HEADER_LENGTH, ""))
        sent = wanted(asked, outputs_of(each.model))
        texts = texts_of(asked, input_of(each.model), tail, house.settings.batch_texts)
        check_texts(house, "inputs", texts)
        return written(each, asked, await compute(house, request, each.model, asked, texts), sent)

    return [server, about, configuration, ready, index, infer]
