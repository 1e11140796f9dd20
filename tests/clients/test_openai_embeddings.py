"""Embeddings and models through the openai package from PyPI, unmodified, against the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest

from tests.clients.conftest import url
from tests.service.making import Service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url(service, "/v1"), api_key="any", max_retries=0) as client:
        yield client


def test_embeddings_as_base64_and_as_numbers(client: openai.OpenAI, opened: Callable[[str], Any]) -> None:
    vectors = opened("words-en")
    words = ["king", "New York", "été"]
    wanted = vectors.embed(words)
    packed = client.embeddings.create(model="words-en", input=words)  # base64, where numpy is there
    numbers = client.embeddings.create(model="words-en", input=words, encoding_format="float")
    for found in (packed, numbers):
        np.testing.assert_array_equal(np.array([each.embedding for each in found.data], np.float32), wanted)
        assert [each.index for each in found.data] == [0, 1, 2]
        assert found.model == "words-en"
        assert found.usage.total_tokens == 3
    ids = [[vectors.lookup(word)] for word in words]
    by_id = client.embeddings.create(model="words-en", input=ids)
    assert [each.embedding for each in by_id.data] == [each.embedding for each in packed.data]
    one = client.embeddings.create(model="words-en", input=ids[0] + ids[1])
    mean = wanted[:2].mean(axis=0)
    np.testing.assert_allclose(one.data[0].embedding, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_short_text_is_the_mean_of_its_known_words(
    client: openai.OpenAI, opened: Callable[[str], Any]
) -> None:
    vectors = opened("words-en")
    text = "The king, the queen and l'hôtel in New York!"
    found = client.embeddings.create(model="words-en", input=text)
    mean = vectors.embed(["the", "king", "the", "queen", "l'hôtel", "new_york"]).mean(axis=0)
    np.testing.assert_allclose(found.data[0].embedding, mean / np.linalg.norm(mean), atol=1e-6)
    assert found.data[0].model_extra == {"unknown_words": ["and", "in"]}
    assert found.usage.prompt_tokens == 6
    known = client.embeddings.create(model="words-en", input="king")
    assert known.data[0].model_extra == {}


def test_fewer_dimensions_are_the_first_made_a_unit(
    client: openai.OpenAI, opened: Callable[[str], Any]
) -> None:
    wanted = opened("words-en").embed(["king"])[0][:5]
    found = client.embeddings.create(model="words-en", input="king", dimensions=5)
    np.testing.assert_allclose(found.data[0].embedding, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_models_tell_what_they_are(client: openai.OpenAI, opened: Callable[[str], Any]) -> None:
    listed = client.models.list().data
    assert [each.id for each in listed] == sorted(each.id for each in listed)
    assert {"text-en", "words-en", "fr-en"} <= {each.id for each in listed}
    for each in listed:
        one = client.models.retrieve(each.id)
        assert one.owned_by == "voisin"
        assert one.object == "model"
        told = one.model_extra or {}
        assert told["revision"] == opened(each.id).manifest.revision
        assert told["scores"] == []
        assert (each.model_extra or {}) == {key: value for key, value in told.items() if key != "scores"}


@pytest.mark.parametrize(
    ("wish", "param", "code"),
    [
        ({"input": "kinng"}, "input", "unknown_word"),
        ({"input": ["king", "zzzz qqqq"]}, "input[1]", "unknown_word"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": [3]}, "input", "invalid_value"),
        ({"input": [[4], [99999]]}, "input[1]", "invalid_value"),
        ({"input": ["king", 4]}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["king"] * 129}, "input", "too_many_texts"),
        ({"input": "king", "dimensions": 17}, "dimensions", "invalid_value"),
        ({"input": "king", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"input": "king", "model": "fr-en"}, "model", "invalid_value"),
    ],
)
def test_embeddings_that_cannot_be(
    client: openai.OpenAI, wish: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": "words-en"} | wish)
    assert (caught.value.param, caught.value.code) == (param, code)
    if wish["input"] == "kinng":
        assert "did you mean king" in caught.value.message
