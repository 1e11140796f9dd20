"""tritonclient[http] from PyPI, unmodified, against the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from bundle.language import CompletionOptions
from tests.clients.conftest import ENDLESS, full
from tests.service.making import HOST, Service

INPUTS = {"words-en": "text", "chars-en": "prompt", "text-en": "prompt", "slow-xx": "prompt", "fr-en": "text"}
TEXTS = {
    "words-en": ["king", "the queen of Rome", "été"],
    "chars-en": ["abc", "", "gfed a"],
    "text-en": ["the gran", "a grand"],
    "fr-en": ["abc de", "gfe. dcb", "a"],
}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{HOST}:{service.port}", concurrency=4) as client:
        yield client


def tensor(model: str, texts: list[str], *, binary: bool = True) -> list[triton.InferInput]:
    found = triton.InferInput(INPUTS[model], [len(texts)], "BYTES")
    found.set_data_from_numpy(np.array(texts, object), binary_data=binary)
    return [found]


def wanted(model: str, opened: Callable[[str], Any], texts: list[str]) -> dict[str, list[Any]]:
    """What the bundle itself gives."""
    bundle = opened(model)
    if model == "words-en":
        parts = [bundle.embed(words) for words in (["king"], ["the", "queen", "rome"], ["été"])]
        means = [part.mean(axis=0) for part in parts]
        return {"embedding": [list(mean / np.linalg.norm(mean)) for mean in means]}
    if model == "fr-en":
        found = [bundle.translate(text) for text in texts]
        return {"translation": [each.text for each in found], "score": [each.score for each in found]}
    options = CompletionOptions("char" if model == "chars-en" else "token", 6, temperature=1.0, seed=4)
    choices = [bundle.complete(text, options)[0] for text in texts]
    return {
        "completion": [each.text for each in choices],
        "finish_reason": [each.finish_reason for each in choices],
        "logprob": [each.logprob for each in choices],
    }


def wishes(model: str) -> dict[str, Any] | None:
    return {"max_tokens": 6, "temperature": 1.0, "seed": 4} if INPUTS[model] == "prompt" else None


def same(found: triton.InferResult, expected: dict[str, list[Any]]) -> None:
    for name, values in expected.items():
        array = found.as_numpy(name)
        if isinstance(values[0], str):
            assert [value.decode() if isinstance(value, bytes) else value for value in array] == values
        else:
            np.testing.assert_allclose(array, np.array(values, np.float32), atol=2e-6)


def test_the_server_and_its_models_tell_about_themselves(
    client: triton.InferenceServerClient, opened: Callable[[str], Any]
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "voisin"
    assert "binary_tensor_data" in server["extensions"]
    index = {each["name"]: each for each in client.get_model_repository_index()}
    for name, taken in INPUTS.items():
        revision = opened(name).manifest.revision
        for version in ("", revision):
            assert client.is_model_ready(name, version)
            told = client.get_model_metadata(name, version)
            assert told["versions"] == [revision]
            assert told["inputs"] == [{"name": taken, "datatype": "BYTES", "shape": [-1]}]
            config = client.get_model_config(name, version)
            assert [each["name"] for each in config["output"]] == [each["name"] for each in told["outputs"]]
        assert index[name] == {"name": name, "version": revision, "state": "READY", "reason": ""}
    assert not client.is_model_ready("zz")
    assert not client.is_model_ready("fr-en", "000000000000")


@pytest.mark.parametrize("model", list(TEXTS))
@pytest.mark.parametrize("asked", ["binary", "json", "named", "gzip", "deflate"])
def test_infer_is_the_bundles_own_answer(
    client: triton.InferenceServerClient, opened: Callable[[str], Any], model: str, asked: str
) -> None:
    texts = TEXTS[model]
    expected = wanted(model, opened, texts)
    more: dict[str, Any] = {"parameters": wishes(model), "request_id": "r-1"}
    if asked == "json":
        more["outputs"] = [triton.InferRequestedOutput(name, binary_data=False) for name in expected]
    if asked == "named":
        expected = dict([list(expected.items())[-1]])
        more["outputs"] = [triton.InferRequestedOutput(name) for name in expected]
    if asked in ("gzip", "deflate"):
        more |= {"request_compression_algorithm": asked, "response_compression_algorithm": asked}
    found = client.infer(model, tensor(model, texts, binary=asked != "json"), **more)
    response = found.get_response()
    assert (response["model_name"], response["id"]) == (model, "r-1")
    assert response["model_version"] == opened(model).manifest.revision
    assert [each["name"] for each in response["outputs"]] == list(expected)
    same(found, expected)


def test_an_axis_more_changes_nothing(
    client: triton.InferenceServerClient, opened: Callable[[str], Any]
) -> None:
    column = triton.InferInput("text", [3, 1], "BYTES")
    column.set_data_from_numpy(np.array(TEXTS["fr-en"], object).reshape(3, 1), binary_data=False)
    same(client.infer("fr-en", [column]), wanted("fr-en", opened, TEXTS["fr-en"]))


def test_many_at_once_asynchronously(
    client: triton.InferenceServerClient, opened: Callable[[str], Any]
) -> None:
    asked = [
        (model, client.async_infer(model, tensor(model, TEXTS[model]), parameters=wishes(model)))
        for model in list(TEXTS) * 4
    ]
    expected = {model: wanted(model, opened, TEXTS[model]) for model in TEXTS}
    for model, waiting in asked:
        same(waiting.get_result(), expected[model])


def test_bodies_built_and_read_without_a_connection(service: Service, opened: Callable[[str], Any]) -> None:
    body, header = triton.InferenceServerClient.generate_request_body(tensor("fr-en", TEXTS["fr-en"]))
    sent = {"Inference-Header-Content-Length": str(header), "Content-Type": "application/octet-stream"}
    answer = service.ask("POST", "/v2/models/fr-en/infer", body, headers=sent)
    found = triton.InferenceServerClient.parse_response_body(
        answer.body, header_length=int(answer.headers["inference-header-content-length"])
    )
    same(found, wanted("fr-en", opened, TEXTS["fr-en"]))


def test_one_cache_for_every_dialect(service: Service, client: triton.InferenceServerClient) -> None:
    body = {"q": "cab fed", "source": "fr", "target": "en"}
    text = service.post("/translate", body).json["translatedText"]
    before = service.metric("voisin_cache_requests_total", tier="memory", result="hit")
    asked = service.metric("voisin_requests_total", task="translate", outcome="ok")
    found = client.infer("fr-en", tensor("fr-en", ["cab fed"]))
    assert found.as_numpy("translation")[0].decode() == text
    assert service.metric("voisin_requests_total", task="translate", outcome="ok") == asked + 1
    assert service.metric("voisin_cache_requests_total", tier="memory", result="hit") == before + 1


def test_shorter_vectors(client: triton.InferenceServerClient, opened: Callable[[str], Any]) -> None:
    cut = opened("words-en").embed(["king"])[0][:4]
    found = client.infer("words-en", tensor("words-en", ["king"]), parameters={"dimensions": 4})
    np.testing.assert_allclose(found.as_numpy("embedding")[0], cut / np.linalg.norm(cut), atol=1e-6)


def refused(ask: Callable[[], Any], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask()
    assert caught.value.status() == status
    assert message in caught.value.message()


def test_what_is_wrong_is_said(client: triton.InferenceServerClient) -> None:
    king = tensor("words-en", ["king"])
    numbers = triton.InferInput("text", [1], "FP32")
    numbers.set_data_from_numpy(np.ones(1, np.float32))
    refused(lambda: client.infer("zz", king), "404", "there are chars-en")
    refused(lambda: client.infer("words-en", king, model_version="1"), "404", "the only version")
    refused(lambda: client.get_model_metadata("zz"), "404", "no model")
    refused(lambda: client.infer("chars-en", king), "400", "the model has one input, prompt; given: text")
    refused(lambda: client.infer("words-en", [numbers]), "400", "BYTES, not FP32")
    refused(lambda: client.infer("words-en", king * 2), "400", "one input")
    refused(lambda: client.infer("words-en", tensor("words-en", ["king"] * 129)), "400", "1 to 128")
    refused(lambda: client.infer("words-en", tensor("words-en", ["zzzz"])), "400", "zzzz")
    refused(lambda: client.infer("words-en", tensor("words-en", ["k" * 6000])), "400", "5000")
    refused(lambda: client.infer("fr-en", king, parameters={"colour": 1}), "400", "colour")
    refused(lambda: client.infer("fr-en", king, parameters={"beam": 99}), "400", "<= 32")
    refused(lambda: client.infer("fr-en", king, timeout=1), "400", "VOISIN_DEADLINE_SECONDS")
    refused(lambda: client.infer("fr-en", king, sequence_id=1, sequence_start=True), "400", "no model keeps")
    refused(lambda: client.load_model("zz"), "404", "no such route")
    for output, message in (
        (triton.InferRequestedOutput("zz"), "there are embedding"),
        (triton.InferRequestedOutput("embedding", class_count=2), "classification is not supported"),
    ):
        refused(lambda output=output: client.infer("words-en", king, outputs=[output]), "400", message)  # type: ignore[misc]


BROKEN: list[tuple[bytes, dict[str, str], int]] = [
    (b"", {}, 400),
    (b"{", {}, 400),
    (b"[]", {}, 400),
    (b"\xff\xfe", {}, 400),
    (b"[" * 50_000, {}, 400),
    (b"{}", {"Inference-Header-Content-Length": "3"}, 400),
    (b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
    (b"{}", {"Inference-Header-Content-Length": "9" * 400}, 400),
    (b"{}", {"Content-Encoding": "br"}, 415),
    (b"{}", {"Content-Encoding": "gzip"}, 400),
    (b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}', {}, 400),
    (b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [1]}]}', {}, 400),
    (b'{"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}', {}, 400),
    (b'{"inputs": [{"name": "text", "shape": [-1], "datatype": "BYTES", "data": ["a"]}]}', {}, 400),
    (b'{"inputs": [{"name": "text", "shape": [], "datatype": "BYTES", "data": ["a"]}]}', {}, 400),
    (b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [[[["a"]]]]}]}', {}, 200),
]


@pytest.mark.parametrize(("body", "headers", "status"), BROKEN)
def test_broken_bodies_are_told_apart(
    service: Service, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = service.ask("POST", "/v2/models/fr-en/infer", body, headers=headers)
    assert answer.status == status, answer.body
    assert status == 200 or isinstance(answer.json["error"], str)


@pytest.mark.parametrize(
    ("size", "tail"),
    [(5, b"\x01\x00\x00\x00a"), (4, b"\x05\x00\x00\x00"), (3, b"\x00\x00\x00"), (5, b"\x01\x00\x00\x00\xff"),
     (6, b"\x01\x00\x00\x00a"), (0, b""), ("x", b"")],
)  # fmt: skip
def test_binary_data_that_end_too_soon(service: Service, size: object, tail: bytes) -> None:
    shown = f'"{size}"' if isinstance(size, str) else size
    head = (
        '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": '
        f'{{"binary_data_size": {shown}}}}}]}}'
    ).encode()
    sent = {"Inference-Header-Content-Length": str(len(head))}
    answer = service.ask("POST", "/v2/models/fr-en/infer", head + tail, headers=sent)
    assert answer.status == (200 if tail == b"\x01\x00\x00\x00a" and size == 5 else 400), answer.body


def test_a_gzip_bomb_is_refused(service: Service) -> None:
    import gzip

    bomb = gzip.compress(b" " * 20_000_000, 9)
    answer = service.ask("POST", "/v2/models/fr-en/infer", bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status == 413


def test_a_full_queue_is_429_and_a_late_answer_504(crowded: Service, hurried: Service) -> None:
    ask, long = tensor("slow-xx", [ENDLESS["prompt"]]), {"max_tokens": 3900}
    with triton.InferenceServerClient(f"{HOST}:{hurried.port}") as client:
        refused(lambda: client.infer("slow-xx", ask, parameters=long), "504", "not answered")
    with triton.InferenceServerClient(f"{HOST}:{crowded.port}") as client, full(crowded):
        refused(lambda: client.infer("slow-xx", ask, parameters=long), "429", "queue is full")
