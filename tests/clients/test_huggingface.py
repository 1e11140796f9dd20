"""huggingface_hub.InferenceClient from PyPI, unmodified, against the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    OverloadedError,
    RepositoryNotFoundError,
    ValidationError,
)

from bundle.language import CompletionOptions
from tests.clients.conftest import ENDLESS, full, url
from tests.service.making import Service

HOMES = ["", "/models/words-en", "/embed"]  # the base, a model, TEI's own route


@pytest.fixture(scope="module")
def client(service: Service) -> InferenceClient:
    return InferenceClient(base_url=url(service))


def unit(vectors: Any, *words: str) -> Any:
    mean = vectors.embed(list(words)).mean(axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("home", HOMES)
def test_feature_extraction(service: Service, opened: Callable[[str], Any], home: str) -> None:
    client, vectors = InferenceClient(model=url(service, home)), opened("words-en")
    one = client.feature_extraction("king")
    np.testing.assert_allclose(one, [unit(vectors, "king")], atol=1e-6)
    several = client.feature_extraction(["New York", "the king"])
    np.testing.assert_allclose(several, [unit(vectors, "new_york"), unit(vectors, "the", "king")], atol=1e-6)
    mean = client.feature_extraction("the king", normalize=False)
    np.testing.assert_allclose(mean[0], vectors.embed(["the", "king"]).mean(axis=0), atol=1e-6)
    short = client.feature_extraction("king", dimensions=3, truncate=True, truncation_direction="right")
    assert short.shape == (1, 3)


@pytest.mark.parametrize("home", ["", "/models/words-en", "/similarity"])
def test_sentence_similarity(service: Service, opened: Callable[[str], Any], home: str) -> None:
    client, vectors = InferenceClient(model=url(service, home)), opened("words-en")
    found = client.sentence_similarity("the king", other_sentences=["the queen", "river", "the king"])
    source = unit(vectors, "the", "king")
    wanted = [unit(vectors, "the", "queen") @ source, unit(vectors, "river") @ source, 1.0]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert found[0] > found[1]


def test_translation(service: Service, client: InferenceClient, opened: Callable[[str], Any]) -> None:
    wanted = opened("fr-en").translate("abc de").text
    assert client.translation("abc de", src_lang="fr", tgt_lang="en").translation_text == wanted
    assert client.translation("abc de", src_lang="fr_XX", tgt_lang="eng_Latn").translation_text == wanted
    named = InferenceClient(model=url(service, "/models/fr-en"))
    assert named.translation("abc de").translation_text == wanted
    with pytest.raises(BadRequestError, match="tgt_lang"):
        named.translation("abc de", src_lang="fr", tgt_lang="de")
    with pytest.raises(BadRequestError, match="fr to de is not supported"):
        client.translation("abc de", src_lang="fr", tgt_lang="de")


def test_text_generation(service: Service, client: InferenceClient, opened: Callable[[str], Any]) -> None:
    model = opened("chars-en")
    named = InferenceClient(model=url(service, "/models/chars-en"))
    options = CompletionOptions("char", 9, temperature=1.2, top_k=6, top_p=0.9, seed=4, beam=1, logprobs=2)
    [wanted] = model.complete("abc", options)
    wishes: dict[str, Any] = {
        "max_new_tokens": 9, "temperature": 1.2, "top_k": 6, "top_p": 0.9, "seed": 4
    }  # fmt: skip
    assert named.text_generation("abc", **wishes) == wanted.text
    assert named.text_generation("abc", **wishes, return_full_text=True) == "abc" + wanted.text
    told = named.text_generation("abc", **wishes, details=True, top_n_tokens=2)
    assert told.generated_text == wanted.text
    assert told.details is not None
    assert told.details.generated_tokens == wanted.tokens
    assert told.details.seed == 4
    assert [each.id for each in told.details.tokens] == [each.id for each in wanted.logprobs]
    assert "".join(each.text for each in told.details.tokens) == wanted.text
    assert [len(each) for each in told.details.top_tokens or ()] == [2] * len(wanted.logprobs)
    best = model.complete("abc", CompletionOptions("char", temperature=0.0, beam=1))[0].text
    assert named.text_generation("abc") == named.text_generation("abc", do_sample=False) == best
    stopped = named.text_generation("abc", **wishes, stop=[wanted.text[1]], details=True)
    assert stopped.generated_text == wanted.text.split(wanted.text[1])[0]
    assert stopped.details is not None
    assert stopped.details.finish_reason == "stop_sequence"
    assert isinstance(client.text_generation("the gran", do_sample=True, seed=1), str)


def test_a_stream_is_the_whole(service: Service) -> None:
    named = InferenceClient(model=url(service, "/models/chars-en"))
    wishes: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "seed": 11}
    fresh = "".join(named.text_generation("fed", **wishes, stream=True))
    again = list(named.text_generation("fed", **wishes, stream=True, details=True))
    whole = named.text_generation("fed", **wishes, details=True)
    assert fresh == whole.generated_text == "".join(each.token.text for each in again)
    assert again[-1].generated_text == fresh
    assert again[-1].token.special
    assert again[-1].details is not None
    assert whole.details is not None
    assert again[-1].details.generated_tokens == whole.details.generated_tokens
    assert again[-1].details.finish_reason == whole.details.finish_reason


def test_many_at_once_from_an_asynchronous_client(service: Service, client: InferenceClient) -> None:
    words = ["king", "queen", "the river", "rome"] * 4

    async def ask() -> list[Any]:
        async with AsyncInferenceClient(base_url=url(service)) as many:
            return list(await asyncio.gather(*(many.feature_extraction(word) for word in words)))

    for word, found in zip(words, asyncio.run(ask()), strict=True):
        np.testing.assert_array_equal(found, client.feature_extraction(word))


def test_info_says_what_tei_s_says(service: Service, opened: Callable[[str], Any]) -> None:
    info = service.get("/info").json
    assert info["model_id"] == "words-en"
    assert info["model_sha"] == opened("words-en").manifest.revision
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_client_batch_size"] == info["settings"]["batch_texts"]
    assert info["max_batch_requests"] == info["settings"]["batch_rows"]
    assert info["auto_truncate"] is False


def test_errors_have_their_classes(service: Service, client: InferenceClient, crowded: Service) -> None:
    named = InferenceClient(model=url(service, "/models/chars-en"))
    with pytest.raises(ValidationError, match="max_tokens"):
        named.text_generation("abc", max_new_tokens=31)
    with pytest.raises(ValidationError, match="typical_p is not a field"):
        named.text_generation("abc", typical_p=0.5)
    with pytest.raises(ValidationError, match="best_of"):
        named.text_generation("abc", best_of=2, do_sample=True, stream=True)
    with pytest.raises(BadRequestError, match="kinng"):
        client.feature_extraction("kinng")
    with pytest.raises(BadRequestError, match="prompt_name"):
        client.feature_extraction("king", prompt_name="query")
    with pytest.raises((RepositoryNotFoundError, HfHubHTTPError), match="404"):
        InferenceClient(model=url(service, "/models/zz")).feature_extraction("king")
    busy = InferenceClient(model=url(crowded, "/models/slow-xx"))
    with full(crowded), pytest.raises(OverloadedError, match="queue is full"):
        busy.text_generation(str(ENDLESS["prompt"]), max_new_tokens=2500)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {}),
        ("/embed", {"inputs": []}),
        ("/embed", {"inputs": ["king", 4]}),
        ("/embed", {"inputs": "king", "dimensions": 0}),
        ("/embed", {"inputs": "king", "lang": "zz"}),
        ("/embed", {"inputs": "king", "colour": 1}),
        ("/embed", {"inputs": ["king"] * 129}),
        ("/similarity", {"inputs": {"source_sentence": "king", "sentences": []}}),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["king"]}}),
        ("/similarity", {"inputs": "king"}),
        ("/models/words-en", {"inputs": {"source_sentence": "king"}}),
        ("/models/fr-en", {"inputs": ["a"]}),
        ("/models/chars-en", {"inputs": ["a"], "parameters": {}}),
        ("/", {"inputs": "a", "parameters": {"src_lang": "fr"}}),
    ],
)
def test_bad_requests_have_tei_s_error(service: Service, path: str, body: dict[str, Any]) -> None:
    answer = service.post(path, body)
    assert answer.status == 400, answer.body
    assert set(answer.json) == {"error", "error_type"}
    assert answer.json["error_type"].lower() == "validation"


def test_a_language_picks_the_vectors(service: Service, opened: Callable[[str], Any]) -> None:
    found = service.post("/embed", {"inputs": "gare", "lang": "fr"}).json
    np.testing.assert_allclose(found, opened("words-fr").embed(["gare"]), atol=1e-6)
    named = service.post("/embed", {"inputs": ["gare"], "model": "words-fr"}).json
    assert named == found
    assert service.post("/embed", {"inputs": "gare"}).status == 400
