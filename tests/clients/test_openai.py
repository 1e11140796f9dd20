"""The openai package from PyPI, unmodified, against the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types import Completion

from bundle.language import CompletionOptions
from tests.clients.conftest import ENDLESS, full, url
from tests.service.making import Service

CASES: list[dict[str, Any]] = [
    {"model": "text-en", "prompt": "the gran", "seed": 1},
    {"model": "text-en", "prompt": ["the ", "a", ""], "seed": 2, "n": 3, "max_tokens": 5},
    {"model": "text-fr", "prompt": ["l'h", "la"], "temperature": 0, "n": 2, "echo": True, "logprobs": 2},
    {"model": "chars-en", "prompt": "abc", "seed": 3, "n": 2, "logprobs": 5, "max_tokens": 9},
    {"model": "chars-en", "prompt": "abc ", "seed": 4, "stop": ["a", "ef"], "echo": True, "logprobs": 0},
    {"model": "chars-en", "prompt": "fed", "seed": -7, "presence_penalty": 2, "frequency_penalty": 1.5},
    {"model": "chars-en", "prompt": "fed", "seed": 5, "logit_bias": {"5": 100, "6": 99}, "top_p": 0.5},
    {"model": "chars-en", "prompt": "", "seed": 6, "top_p": 0, "max_tokens": 3},
    {"model": "chars-en", "prompt": "gfe", "max_tokens": 0, "echo": True, "logprobs": 1},
]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url(service, "/v1"), api_key="any", max_retries=0) as client:
        yield client


def plain(completion: Completion) -> Any:
    """A completion without what differs each time."""
    found = completion.model_dump(exclude_unset=True)
    assert found.pop("id").startswith("cmpl-")
    assert abs(found.pop("created") - time.time()) < 3600
    return found


def test_an_answer_is_the_models_own(client: openai.OpenAI, opened: Callable[[str], Any]) -> None:
    model = opened("chars-en")
    options = CompletionOptions(
        "char", 8, 3, beam=1, temperature=1.0, top_k=0, top_p=1.0, seed=3, logprobs=2
    )  # fmt: skip
    wanted = model.complete("abc", options)
    found = client.completions.create(
        model="chars-en", prompt="abc", max_tokens=8, n=3, seed=3, logprobs=2, extra_body={"top_k": 0}
    )
    assert found.object == "text_completion"
    assert found.model == "chars-en"
    assert found.system_fingerprint == model.manifest.revision
    assert [each.text for each in found.choices] == [each.text for each in wanted]
    assert [each.finish_reason for each in found.choices] == [each.finish_reason for each in wanted]
    for choice, mine in zip(found.choices, wanted, strict=True):
        told = choice.logprobs
        assert told is not None
        assert "".join(told.tokens or ()) == choice.text
        assert told.token_logprobs == pytest.approx([each.logprob for each in mine.logprobs], abs=2e-6)
        assert told.text_offset == [each.offset for each in mine.logprobs]
        for token, own, top in zip(
            told.tokens or (), told.token_logprobs or (), told.top_logprobs or (), strict=True
        ):
            assert top[token] == own
            assert 2 <= len(top) <= 3
    usage = found.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, sum(each.tokens for each in wanted))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_defaults_are_openai_s(client: openai.OpenAI) -> None:
    first, second = (client.completions.create(**ENDLESS) for _ in range(2))
    assert first.usage is not None
    assert first.usage.completion_tokens == 16
    assert first.choices[0].finish_reason == "length"
    assert first.choices[0].logprobs is None
    assert first.choices[0].text != second.choices[0].text  # temperature 1, no seed: 8 ** 16 texts


@pytest.mark.parametrize("model", ["text-en", "chars-en"])
def test_a_prompt_in_each_of_its_forms(
    client: openai.OpenAI, opened: Callable[[str], Any], model: str
) -> None:
    texts = ["a grand", "a", "gfed"] if model == "text-en" else ["abc", "a", "gfed"]
    ids = [opened(model).tokenizer.encode(text) for text in texts]

    def ask(prompt: Any) -> list[str]:
        answer = client.completions.create(model=model, prompt=prompt, seed=5, n=2, max_tokens=6)
        assert [each.index for each in answer.choices] == list(range(len(answer.choices)))
        return [each.text for each in answer.choices]

    singles = [ask(text) for text in texts]
    assert ask(texts) == ask(ids) == [text for each in singles for text in each]
    assert ask([texts[0]]) == ask(ids[0]) == singles[0]
    assert ask("") == ask([""])


def test_an_echo_is_the_prompt_and_its_odds(client: openai.OpenAI) -> None:
    case: dict[str, Any] = {"model": "chars-en", "prompt": "abc", "seed": 8, "max_tokens": 4, "logprobs": 3}
    bare = client.completions.create(**case).choices[0]
    echoed = client.completions.create(**case, echo=True).choices[0]
    alone = client.completions.create(**case | {"max_tokens": 0}, echo=True)
    assert echoed.text == "abc" + bare.text
    assert bare.logprobs is not None
    assert echoed.logprobs is not None
    tokens, offsets = echoed.logprobs.tokens or [], echoed.logprobs.text_offset or []
    assert tokens == ["a", "b", "c", *(bare.logprobs.tokens or [])]
    assert [echoed.text[place:][: len(token)] for place, token in zip(offsets, tokens, strict=True)] == tokens
    assert (echoed.logprobs.token_logprobs or [])[3:] == bare.logprobs.token_logprobs
    assert alone.choices[0].text == "abc"
    assert alone.choices[0].logprobs is not None
    assert alone.choices[0].logprobs.token_logprobs == (echoed.logprobs.token_logprobs or [])[:3]
    assert alone.usage is not None
    assert alone.usage.completion_tokens == 0


def test_best_of_is_the_best_of_as_many(client: openai.OpenAI) -> None:
    case: dict[str, Any] = ENDLESS | {"seed": 9, "max_tokens": 6, "logprobs": 0}
    drawn = client.completions.create(**case, n=6)
    best = client.completions.create(**case, n=2, best_of=6)

    def odds(choice: Any) -> float:
        return float(sum(choice.logprobs.token_logprobs))  # all are equally long

    wanted = sorted(drawn.choices, key=odds, reverse=True)[:2]
    assert [each.text for each in best.choices] == [each.text for each in wanted]
    assert [each.index for each in best.choices] == [0, 1]
    assert drawn.usage is not None
    assert best.usage is not None
    assert best.usage.completion_tokens == drawn.usage.completion_tokens


def test_a_bias_bans_and_forces(client: openai.OpenAI, opened: Callable[[str], Any]) -> None:
    tokenizer = opened("chars-en").tokenizer
    [a], [b] = tokenizer.encode("a"), tokenizer.encode("b")
    forced = client.completions.create(model="chars-en", prompt="c", max_tokens=5, logit_bias={str(a): 100})
    assert forced.choices[0].text == "aaaaa"
    tired = client.completions.create(
        model="chars-en", prompt="c", max_tokens=4, temperature=0, presence_penalty=2, frequency_penalty=2,
        logit_bias={str(a): 20, str(b): 19},
    )  # fmt: skip
    assert tired.choices[0].text[:2] == "ab"


def test_temperature_0_is_the_likeliest_as_often_as_asked(client: openai.OpenAI) -> None:
    one = client.completions.create(model="chars-en", prompt="abc", temperature=0)
    three = client.completions.create(model="chars-en", prompt="abc", temperature=0, n=3, seed=4)
    assert [each.text for each in three.choices] == 3 * [one.choices[0].text]
    assert [each.index for each in three.choices] == [0, 1, 2]


def streamed(chunks: Any) -> tuple[list[dict[str, Any]], Any]:
    """The choices put together from a stream, and its usage."""
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in chunks:
        found = chunk.model_dump()
        usage = found["usage"]
        assert (found["choices"] == []) == (usage is not None)
        for each in found["choices"]:
            whole = choices.setdefault(
                each["index"], {"text": "", "finish_reason": None, "logprobs": None, "index": each["index"]}
            )
            assert whole["finish_reason"] is None
            whole["text"] += each["text"]
            whole["finish_reason"] = each["finish_reason"]
            for name, values in (each["logprobs"] or {}).items():
                whole["logprobs"] = whole["logprobs"] or {}
                whole["logprobs"].setdefault(name, []).extend(values)
    return [choices[index] for index in sorted(choices)], usage


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_the_whole_fresh_or_remembered(client: openai.OpenAI, case: dict[str, Any]) -> None:
    options = {"include_usage": True}
    fresh = client.completions.create(
        **case, stream=True, stream_options=options, extra_headers={"Cache-Control": "no-cache"}
    )
    made = streamed(fresh)
    whole = client.completions.create(**case).model_dump()
    again = streamed(client.completions.create(**case, stream=True, stream_options=options))
    for choices, usage in (made, again):
        assert usage == whole["usage"] | {
            "completion_tokens_details": None, "prompt_tokens_details": None
        }  # fmt: skip
        for found, wanted in zip(choices, whole["choices"], strict=True):
            found["logprobs"] = found["logprobs"] or wanted["logprobs"]
            assert found == wanted
    bare = list(client.completions.create(**case, stream=True))
    assert "usage" not in bare[0].model_fields_set
    assert all(each.choices for each in bare)


def test_many_prompts_at_once_from_an_asynchronous_client(service: Service, client: openai.OpenAI) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url(service, "/v1"), api_key="any") as many:
            asked = [many.completions.create(**case) for case in CASES for _ in range(3)]
            return list(await asyncio.gather(*asked))

    found = asyncio.run(ask())
    assert [plain(each) for each in found[::3]] == [
        plain(client.completions.create(**case)) for case in CASES
    ]
    assert [plain(each) for each in found[::3]] == [plain(each) for each in found[2::3]]


def test_one_cache_for_every_dialect(service: Service, client: openai.OpenAI) -> None:
    body = {"model": "chars-en", "prompt": "gfedc", "seed": 77, "max_tokens": 7, "temperature": 1}
    assert service.post("/complete", body).cache == "miss"
    answer = client.completions.with_raw_response.create(**body)  # type: ignore[call-overload]
    assert answer.headers["x-cache"] == "hit"
    native = service.post("/complete", body).json["completions"][0]
    assert answer.parse().choices[0].text == native["text"]


def test_fields_that_we_do_not_know_are_no_error(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="text-en", prompt="a", seed=1, user="u", best_of=1, suffix="",
        extra_body={"min_p": 0.1, "ignore_eos": True, "stop": None, "logit_bias": None, "n": None},
    )  # fmt: skip
    assert len(answer.choices) == 1


def test_who_leaves_a_stream_stops_the_work(service: Service, client: openai.OpenAI) -> None:
    stream = client.completions.create(**ENDLESS, n=2, max_tokens=3000, stream=True)
    next(iter(stream))
    assert service.metric("voisin_backlog_requests") == 1
    stream.close()
    until = time.monotonic() + 20
    while service.metric("voisin_backlog_requests"):
        assert time.monotonic() < until
    assert service.get("/health/ready").status == 200


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"suffix": "x"}, "suffix", "gap"),
    ({"best_of": 1, "n": 2}, "best_of", "at least n"),
    ({"best_of": 3, "n": 2, "stream": True}, "best_of", "stream"),
    ({"max_tokens": 0}, "max_tokens", "echo"),
    ({"max_tokens": 41}, "max_tokens", "at most 40"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"logprobs": 6}, "logprobs", "<= 5"),
    ({"n": 0}, "n", ">= 1"),
    ({"n": 33}, "n", "<= 32"),
    ({"temperature": 2.1}, "temperature", "<= 2"),
    ({"presence_penalty": -3}, "presence_penalty", ">= -2"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "not the id"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "99999"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "<= 100"),
    ({"stop": ["a"] * 17}, "stop", "<= 16"),
    ({"prompt": []}, "prompt", "1 to 128"),
    ({"prompt": ["a"] * 129}, "prompt", "1 to 128"),
    ({"prompt": ["a", 1]}, "prompt", "all of one kind"),
    ({"prompt": [1.5]}, "prompt[0]", "float"),
    ({"prompt": [0]}, "prompt", "token 0"),
    ({"prompt": [[5], [99999]]}, "prompt", "token 99999"),
    ({"prompt": "a" * 5001}, "prompt", "5000"),
    ({"prompt": "the grand " * 100}, "prompt", "at most 64"),
]


@pytest.mark.parametrize(("wish", "param", "message"), BAD)
def test_what_is_wrong_is_a_bad_request_that_says_so(
    client: openai.OpenAI, wish: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "text-en", "prompt": "a"} | wish)
    assert caught.value.status_code == 400
    assert caught.value.param == param
    assert message in caught.value.message
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_errors_have_their_classes(client: openai.OpenAI, crowded: Service) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a")
    assert missing.value.code == "unknown_model"
    assert "text-en" in missing.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("zz")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="text-en", messages=[])
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="text-en", prompt="a" * 2_000_000)
    assert large.value.status_code == 413
    with (
        openai.OpenAI(base_url=url(crowded, "/v1"), api_key="any", max_retries=0) as hasty,
        full(crowded),
        pytest.raises(openai.RateLimitError) as refused,
    ):
        hasty.completions.create(**ENDLESS, max_tokens=50)
    assert refused.value.type == "rate_limit_error"
    assert refused.value.code == "overloaded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    assert refused.value.response.headers["x-should-retry"] == "true"


def test_a_late_answer_is_not_asked_for_again(hurried: Service) -> None:
    before = hurried.metric("voisin_requests_total", task="complete", outcome="timeout")
    with openai.OpenAI(base_url=url(hurried, "/v1"), api_key="any", max_retries=5) as client:
        with pytest.raises(openai.InternalServerError) as late:
            client.completions.create(**ENDLESS, max_tokens=3900)
        assert late.value.status_code == 504
        assert late.value.code == "deadline_exceeded"
        assert hurried.metric("voisin_requests_total", task="complete", outcome="timeout") == before + 1
        with pytest.raises(openai.APIError, match="not answered within") as cut:
            list(client.completions.create(**ENDLESS, max_tokens=3900, stream=True))
        assert cut.value.type == "server_error"


def test_a_full_queue_makes_the_client_wait_and_then_succeed(crowded: Service) -> None:
    statuses: list[int] = []

    def seen(response: Any) -> None:
        statuses.append(response.status_code)
        release()  # there is room again, and the client comes back for it by itself

    with (
        full(crowded) as release,
        openai.OpenAI(
            base_url=url(crowded, "/v1"),
            api_key="any",
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [seen]}),
        ) as patient,
    ):
        answer = patient.completions.with_raw_response.create(**ENDLESS, max_tokens=50)
        assert answer.retries_taken == 1
        assert statuses == [429, 200]
        assert len(answer.parse().choices[0].text) == 50


def test_a_wrong_key_is_an_authentication_error(models: Any, tmp_path: Any) -> None:
    from service.keys import digest_of, new_key
    from tests.service.making import serve

    key = new_key()
    with (
        serve(models, tmp_path / "log", api_keys=f"shop {digest_of(key).hex()}") as guarded,
        openai.OpenAI(base_url=url(guarded, "/v1"), api_key="wrong") as wrong,
        openai.OpenAI(base_url=url(guarded, "/v1"), api_key=key) as right,
    ):
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        assert guarded.post("/", {"inputs": "king"}).status == 401  # the page at / is open, its POST is not
        assert right.embeddings.create(model="words-en", input="king").data
