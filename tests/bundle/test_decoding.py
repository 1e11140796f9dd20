"""The decoder core against plain loops over numpy, alone and in company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.beam import Beam, best_of_each
from bundle.decoding import Decoder, Finished, Request, Token, run
from bundle.sampling import log_softmax, philox, sample
from bundle.stepper import Prompt

EOS, PAD, VOCAB = 2, 0, 12


def decoder(form: Any, **options: Any) -> Decoder:
    return Decoder(form.stepper, eos=EOS, pad=PAD, **{"banned": (0, 1), **options})


def next_logits(form: Any, prompt: Prompt, ids: Sequence[int]) -> np.ndarray:
    return np.asarray(form.reference(Prompt((*prompt.ids, *ids), prompt.source))[-1])


def greedy(form: Any, prompt: Prompt, most: int) -> tuple[list[int], float, str]:
    """The definition, one token at a time from the whole prefix."""
    ids: list[int] = []
    total = 0.0
    while True:
        logprobs = log_softmax(next_logits(form, prompt, ids))
        id = 2 + int(logprobs[2:].argmax())
        total += float(logprobs[id])
        if id == EOS:
            return ids, total, "stop"
        ids.append(id)
        if len(ids) == most or (form.capacity and len(prompt.ids) + len(ids) > form.capacity):
            return ids, total, "length"


def search(
    form: Any, prompt: Prompt, most: int, width: int, penalty: float
) -> list[tuple[tuple[int, ...], float]]:
    """Beam search in the plainest words: ids and log-probability of what is finished, best first."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[tuple[bool, float, tuple[int, ...], float]] = []
    while live and len(finished) < width:
        grown = []
        for ids, total in live:
            logprobs = log_softmax(next_logits(form, prompt, ids))
            grown += [((*ids, id), total + float(logprobs[id])) for id in range(2, VOCAB)]
        grown.sort(key=lambda found: -found[1])
        live = []
        for rank, (ids, total) in enumerate(grown):
            if ids[-1] == EOS:
                if rank < width:
                    finished.append((True, total / len(ids) ** penalty, ids[:-1], total))
            elif len(live) < width:
                live.append((ids, total))
            if len(live) == width:
                break
        if len(live[0][0]) == most:
            finished += [(False, total / most**penalty, ids, total) for ids, total in live]
            live = []
    finished.sort(key=lambda found: (not found[0], -found[1]))
    return [(ids, total) for _, _, ids, total in finished]


def prompts(form: Any) -> list[Prompt]:
    return [
        form.prompt(3, 4, 5, source=(3, 2)),
        form.prompt(source=(5, 6, 7, 8, 2)),
        form.prompt(9, 3, 7, 8, 8, 5, source=(9, 9, 2)),
        form.prompt(4, source=(10, 11, 3, 4, 5, 6, 2)),
        form.prompt(11, 10, source=(6, 2)),
    ]


def test_greedy_is_the_definition_and_a_batch_is_its_rows(form: Any) -> None:
    requests = [Request(prompt, max_tokens=10) for prompt in prompts(form)]
    together = run(decoder(form), requests)
    alone = [run(decoder(form), [request])[0] for request in requests]
    for request, [one], [other] in zip(requests, together, alone, strict=True):
        ids, total, reason = greedy(form, request.prompt, 10)
        assert list(one.ids) == list(other.ids) == ids
        assert one.reason == other.reason == reason
        assert one.logprob == pytest.approx(total, abs=1e-3)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beam_search_is_the_definition_and_a_batch_is_its_rows(form: Any, penalty: float) -> None:
    requests = [
        Request(prompt, max_tokens=6, beam=width, n=width, length_penalty=penalty)
        for prompt, width in zip(prompts(form), (4, 2, 3, 5, 4), strict=True)
    ]
    together = run(decoder(form), requests)
    for request, found in zip(requests, together, strict=True):
        [alone] = run(decoder(form), [request])
        assert [one.ids for one in found] == [one.ids for one in alone]
        expected = search(form, request.prompt, 6, request.beam, penalty)[: request.n]
        assert [one.ids for one in found] == [ids for ids, _ in expected]
        assert [one.logprob for one in found] == pytest.approx([total for _, total in expected], abs=1e-3)
        assert [one.left for one in found] == list(reversed(range(len(found))))


def test_a_beam_of_one_is_greedy(form: Any) -> None:
    """Not by taking another way: the bookkeeping itself, with a width of one."""
    for prompt in prompts(form):
        ids, total, reason = greedy(form, prompt, 10)
        beam = Beam(1, 1.0, lambda made: "length" if len(made) == 10 else None, EOS)
        while beam.live:
            logits = next_logits(form, prompt, beam.live[0].ids)[None].copy()
            normalised = log_softmax(logits)
            normalised[:, :2] = -np.inf
            some = best_of_each(normalised, 2)
            beam.advance(some.tolist(), np.take_along_axis(normalised, some, axis=1).tolist())
        found = beam.ranked()[0]
        assert (list(found.ids), found.reason) == (ids, reason)
        assert found.logprob == pytest.approx(total, abs=1e-3)


def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all(form: Any) -> None:
    prompt = form.prompt(5, 3)
    [found] = run(
        decoder(form, max_rows=200), [Request(prompt, max_tokens=2, beam=120, n=20, length_penalty=0.0)]
    )
    every = {}
    for first in range(3, VOCAB):
        start = log_softmax(next_logits(form, prompt, ()))
        after = log_softmax(next_logits(form, prompt, (first,)))
        every[(first,)] = float(start[first] + after[EOS])
        every[()] = float(start[EOS])
        for second in range(3, VOCAB):
            every[(first, second)] = float(start[first] + after[second])
    complete = sorted((ids for ids in every if len(ids) < 2), key=lambda ids: -every[ids])
    assert [one.ids for one in found if one.reason == "stop"] == complete
    cut = sorted((ids for ids in every if len(ids) == 2), key=lambda ids: -every[ids])
    assert [one.ids for one in found if one.reason == "length"] == cut[: 20 - len(complete)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_best_of_each_row(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vocab = data.draw(st.sampled_from([3, 12, 64, 257, 1000, 4096, 5003]))
    scores = rng.permutation(3 * vocab).astype(np.float32).reshape(3, vocab)
    count = data.draw(st.integers(1, 12))
    expected = np.argsort(-scores, axis=1)[:, :count]
    np.testing.assert_array_equal(best_of_each(scores, count), expected)


def test_requests_may_come_at_any_time(form: Any) -> None:
    """Joining a running batch, at whatever step, changes no answer."""
    requests = [Request(prompt, max_tokens=8) for prompt in prompts(form)]
    requests += [Request(prompts(form)[0], max_tokens=5, beam=3, n=2)]
    requests += [Request(prompts(form)[1], max_tokens=8, temperature=1.0, n=3, seed=7)]
    expected = [[one.ids for one in run(decoder(form), [request])[0]] for request in requests]
    late = decoder(form, max_rows=6)
    found: dict[int, list[Finished]] = {place: [] for place in range(len(requests))}
    waiting = list(enumerate(requests))
    while waiting or late.active or late.waiting:
        if waiting:
            place, request = waiting.pop(0)
            late.add(request, place)
        for event in late.step():
            if isinstance(event, Finished):
                found[event.tag].append(event)  # type: ignore[index]
    for place, ids in enumerate(expected):
        assert [one.ids for one in sorted(found[place], key=lambda one: one.choice)] == ids


def test_tokens_are_told_as_they_come(form: Any) -> None:
    [request] = [Request(prompts(form)[0], max_tokens=6, n=2, temperature=0.7, seed=3)]
    engine = decoder(form)
    engine.add(request, "a")
    ids: dict[int, list[int]] = {0: [], 1: []}
    sums = {0: 0.0, 1: 0.0}
    ended = 0
    while ended != 2:
        for event in engine.step():
            assert event.tag == "a"
            if isinstance(event, Token):
                ids[event.choice].append(event.id)
                sums[event.choice] += event.logprob
            else:
                ended += 1
                assert list(event.ids) == ids[event.choice]
                if event.reason == "length":
                    assert event.logprob == pytest.approx(sums[event.choice])
                assert event.left == 2 - ended
    assert engine.active == engine.waiting == 0
    assert engine.step() == []


def test_sampling_is_the_definition(form: Any) -> None:
    prompt = prompts(form)[2]
    wishes: dict[str, Any] = {"temperature": 1.3, "top_k": 6, "top_p": 0.9}
    [found] = run(decoder(form, banned=()), [Request(prompt, max_tokens=7, n=3, seed=11, **wishes)])
    for choice, one in enumerate(found):
        ids: list[int] = []
        for step in range(7):
            logits = next_logits(form, prompt, ids).astype(np.float32)
            logits[PAD] = -np.inf
            id, _ = sample(logits, uniform=philox(11, choice, step), **wishes)
            if id == EOS:
                break
            ids.append(id)
        assert list(one.ids) == ids
    assert len({one.ids for one in found}) > 1


def test_the_same_seed_gives_the_same_tokens_in_any_company(form: Any) -> None:
    some = [Request(prompt, max_tokens=8, temperature=1.0, seed=5) for prompt in prompts(form)]
    one = Request(prompts(form)[3], max_tokens=8, temperature=1.0, seed=6, n=2)
    alone = [found.ids for found in run(decoder(form), [one])[0]]
    assert [found.ids for found in run(decoder(form), [*some, one])[-1]] == alone
    other = Request(prompts(form)[3], max_tokens=8, temperature=1.0, seed=8, n=2)
    assert [found.ids for found in run(decoder(form), [other])[0]] != alone


def test_allow_closing_and_stop(form: Any) -> None:
    prompt = prompts(form)[0]
    even = np.arange(VOCAB) % 2 == 0
    [[found]] = run(decoder(form), [Request(prompt, max_tokens=9, allow=lambda ids: even)])
    assert found.ids or found.reason == "stop"
    assert all(id % 2 == 0 for id in found.ids)

    nothing = np.zeros(VOCAB, np.bool_)
    for beam in (1, 3):
        [[found]] = run(decoder(form), [Request(prompt, max_tokens=9, beam=beam, allow=lambda ids: nothing)])
        assert (found.ids, found.reason) == ((), "stop")

    never = np.arange(VOCAB) != EOS
    [[whole]] = run(decoder(form), [Request(prompt, max_tokens=9, allow=lambda ids: never)])
    assert (len(whole.ids), whole.reason) == (9, "length")
    for beam in (1, 3):
        request = Request(
            prompt, max_tokens=9, beam=beam, allow=lambda ids: never, stop=lambda made: len(made) == 2
        )
        [[found]] = run(decoder(form), [request])
        assert (len(found.ids), found.reason) == (2, "stop")
        assert beam > 1 or found.ids == whole.ids[:2]

    # Tokens that close count as one with eos: here they are all there are, so the end is sure.
    everything = np.arange(VOCAB) > EOS
    for beam in (1, 2):
        request = Request(
            prompt, max_tokens=9, beam=beam, closing=lambda made: everything if len(made) == 2 else None
        )
        [[found]] = run(decoder(form, banned=()), [request])
        assert len(found.ids) <= 2
        if len(found.ids) == 2:  # or it ended before
            total = sum(
                float(log_softmax(next_logits(form, prompt, found.ids[:made]))[id])
                for made, id in enumerate(found.ids)
            )
            last = log_softmax(next_logits(form, prompt, found.ids))
            expected = total + float(np.log(np.exp(last[EOS:]).sum()))
            assert found.logprob == pytest.approx(expected, abs=1e-3)


def test_the_context_ends_a_row(form: Any) -> None:
    prompt = form.prompt(*[5] * 19)
    never = np.arange(VOCAB) != EOS
    [[found]] = run(decoder(form), [Request(prompt, max_tokens=50, allow=lambda ids: never)])
    assert found.reason == "length"
    assert len(found.ids) == (form.capacity - len(prompt.ids) + 1 if form.capacity else 50)


def test_cancelling_frees_rows_at_once(form: Any) -> None:
    engine = decoder(form, max_rows=4)
    never = np.arange(VOCAB) != EOS
    wanted = [Request(prompt, max_tokens=9, allow=lambda ids: never) for prompt in prompts(form)]
    expected = [run(decoder(form), [request])[0][0].ids for request in wanted]
    engine.add(
        Request(prompts(form)[1], max_tokens=12, n=3, temperature=1.0, allow=lambda ids: never), "long"
    )
    engine.add(wanted[0], 0)
    engine.add(wanted[1], "waits")
    first = engine.step()
    assert {event.tag for event in first} == {"long", 0}
    assert (engine.active, engine.waiting) == (4, 1)
    dropped = engine.cancel("long")
    assert [(one.choice, one.reason, len(one.ids), one.left) for one in dropped] == [
        (0, "cancelled", 1, 2), (1, "cancelled", 1, 1), (2, "cancelled", 1, 0)
    ]  # fmt: skip
    assert engine.active == 1
    assert [one.tag for one in engine.cancel("waits")] == ["waits"]
    assert engine.waiting == 0
    assert engine.cancel("unknown") == []
    engine.add(wanted[2], 2)
    found = {}
    while engine.active or engine.waiting:
        found.update({event.tag: event.ids for event in engine.step() if isinstance(event, Finished)})
    assert found == {0: expected[0], 2: expected[2]}
    engine.add(Request(wanted[3].prompt, max_tokens=5, beam=3), "beam")
    engine.step()
    assert [one.reason for one in engine.cancel("beam")] == ["cancelled"]
    assert engine.step() == []


def test_admission_is_in_order_and_bounded(form: Any) -> None:
    engine = decoder(form, max_rows=4)
    never = np.arange(VOCAB) != EOS
    for tag, rows in (("a", 3), ("b", 2), ("c", 1)):
        engine.add(
            Request(form.prompt(3), max_tokens=3, n=rows, temperature=1.0, allow=lambda ids: never), tag
        )
    engine.step()
    assert (engine.active, engine.waiting) == (3, 2)  # b does not fit, and c does not overtake it
    engine.step()
    engine.step()
    assert engine.active == 0
    engine.step()
    assert (engine.active, engine.waiting) == (3, 0)
    wide = decoder(form, max_rows=2)
    wide.add(Request(form.prompt(3), max_tokens=2, beam=5), "wide")  # alone, it is admitted all the same
    while wide.active or wide.waiting:
        wide.step()


def test_a_model_that_fails_loses_nothing(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    never = np.arange(VOCAB) != EOS
    request = Request(form.prompt(3), max_tokens=4, allow=lambda ids: never)
    [[expected]] = run(decoder(form), [request])
    engine = decoder(form)
    engine.add(request, 0)
    with monkeypatch.context() as broken:
        broken.setattr(form.stepper, "begin", lambda prompts, logits: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert engine.waiting == 1
    engine.step()
    with monkeypatch.context() as broken:
        broken.setattr(form.stepper, "advance", lambda state, ids, logits: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    while engine.active:
        events = engine.step()
    assert events[-1] == expected._replace(tag=0)


def test_requests_that_make_no_sense(form: Any) -> None:
    for wrong in ({"max_tokens": 0}, {"n": 0}, {"n": 3, "beam": 2}, {"beam": 2, "temperature": 1.0}):
        with pytest.raises(ValueError, match=r"at least 1|not sampled"):
            Request(form.prompt(3), **{"max_tokens": 4, **wrong})  # type: ignore[arg-type]
    for ids in ((), (-1,), (1, VOCAB)):
        with pytest.raises(ValueError, match="vocabulary"):
            decoder(form).add(Request(Prompt(ids, (3, 2)), max_tokens=4), 0)
    if form.capacity:
        with pytest.raises(ValueError, match="context 24"):
            decoder(form).add(Request(form.prompt(*[3] * 24), max_tokens=4), 0)
