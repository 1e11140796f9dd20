"""Every architecture: training form and step form are one function, whatever the rows beside a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bundle.stepper import Prompt, Stepper
from training.models import Language, Model, ModelConfig, Translator, build, detached
from training.models.graph import TorchGraph

VOCAB = 23

LANGUAGE: dict[str, dict[str, Any]] = {
    "rnn one-hot": {"architecture": "rnn", "hidden": 12},
    "gru embedded": {"architecture": "gru", "hidden": 12, "layers": 2, "embedding": 7},
    "lstm tied": {"architecture": "lstm", "hidden": 12, "layers": 2, "embedding": 12, "tied": True},
    "lstm tied, projected": {"architecture": "lstm", "hidden": 12, "embedding": 7, "tied": True},
    "transformer learned": {"architecture": "transformer", "hidden": 16, "layers": 2, "activation": "gelu"},
    "transformer sinusoidal": {
        "architecture": "transformer",
        "hidden": 16,
        "layers": 2,
        "positions": "sinusoidal",
        "tied": True,
    },
}
TRANSLATOR: dict[str, dict[str, Any]] = {
    "lstm attention": {"architecture": "lstm", "hidden": 12, "layers": 2, "embedding": 7},
    "lstm state alone": {"architecture": "lstm", "hidden": 12, "attention": False},
    "lstm both ways": {"architecture": "lstm", "hidden": 12, "layers": 2, "bidirectional": True},
    "gru tied": {"architecture": "gru", "hidden": 12, "embedding": 12, "tied": True},
    "rnn both ways": {"architecture": "rnn", "hidden": 12, "bidirectional": True, "attention": False},
    "transformer tied": {"architecture": "transformer", "hidden": 16, "layers": 2, "tied": True},
    "transformer 3+1": {
        "architecture": "transformer",
        "hidden": 16,
        "encoder_layers": 3,
        "decoder_layers": 1,
        "positions": "learned",
        "feedforward": 24,
    },
}
ALL = [("language", name) for name in LANGUAGE] + [("translator", name) for name in TRANSLATOR]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)


def make(kind: str, name: str, **changes: Any) -> Model:
    shape = (LANGUAGE if kind == "language" else TRANSLATOR)[name]
    model = build(kind, ModelConfig(**{**shape, **changes}), VOCAB)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def language(name: str, **changes: Any) -> Language:
    model = make("language", name, **changes)
    assert isinstance(model, Language)
    return model.double()


def translator(name: str, **changes: Any) -> Translator:
    model = make("translator", name, **changes)
    assert isinstance(model, Translator)
    return model.double()


def start(model: Model, rows: int, made: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state and memory of rows that have read nothing."""
    sizes = {"batch": rows, "past": 0}
    return {
        name: made[name]
        if name in made
        else torch.zeros([sizes[a] if isinstance(a, str) else a for a in spec.axes], dtype=torch.float64)
        for name, spec in model.step_inputs.items()
        if name.startswith(("past.", "memory.")) or name in made
    }


def advance(model: Model, carried: dict[str, Tensor], ids: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """One step; `carried` moves on, cut to the longest row as `bundle.stepper` does."""
    feeds = {**carried, "ids": ids, "counts": counts, "lengths": lengths}
    outputs = model.step({name: feeds[name] for name in model.step_inputs})
    assert set(outputs) == set(model.step_outputs)
    longest = int((lengths + counts).max())
    for name, spec in model.step_inputs.items():
        if name.startswith("past."):
            present = outputs["present" + name.removeprefix("past")]
            carried[name] = present[:, :longest] if "past" in spec.axes else present
    return outputs["logits"]


def piecewise(model: Model, ids: Tensor, counts: Sequence[int], made: dict[str, Tensor]) -> list[Tensor]:
    """Logits of each row, read in ragged pieces; a row that has ended is fed padding of one token."""
    generator = np.random.default_rng(2)
    rows, total = len(counts), np.array(counts)
    done, carried = np.zeros(rows, np.int64), start(model, rows, made)
    found: list[list[Tensor]] = [[] for _ in counts]
    held = torch.zeros(rows, dtype=torch.int32)
    while (done < total).any():
        take = np.minimum(generator.integers(1, 4, rows), np.maximum(total - done, 1))
        piece = torch.randint(VOCAB, (rows, int(take.max())))
        for row in range(rows):
            if done[row] < total[row]:
                piece[row, : take[row]] = ids[row, done[row] : done[row] + take[row]]
        now = torch.tensor(take, dtype=torch.int32)
        logits = advance(model, carried, piece, now, held)
        for row in range(rows):
            if done[row] < total[row]:
                found[row].extend(logits[row, : take[row]])
        held, done = held + now, done + take
    return [torch.stack(row[:count]) for row, count in zip(found, counts, strict=True)]


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_in_ragged_pieces_is_the_whole(name: str) -> None:
    model, counts = language(name), [9, 1, 6, 4]
    ids = torch.randint(VOCAB, (4, 9))
    whole, _ = model(ids)
    for row, logits in enumerate(piecewise(model, ids, counts, {})):
        torch.testing.assert_close(logits, whole[row, : counts[row]], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", TRANSLATOR)
def test_a_translator_in_ragged_pieces_is_the_whole(name: str) -> None:
    model, counts = translator(name), [7, 1, 5]
    source, source_counts = torch.randint(VOCAB, (3, 6)), torch.tensor([2, 6, 3])
    target = torch.randint(VOCAB, (3, 7))
    whole = model(source, source_counts, target)
    made = model.encode({"ids": source, "counts": source_counts})
    assert set(made) == set(model.encode_outputs)
    for row, logits in enumerate(piecewise(model, target, counts, {**made, "source_counts": source_counts})):
        torch.testing.assert_close(logits, whole[row, : counts[row]], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", TRANSLATOR)
def test_padding_of_the_source_is_ignored(name: str) -> None:
    model, target = translator(name), torch.randint(VOCAB, (2, 5))
    source, counts = torch.randint(VOCAB, (2, 6)), torch.tensor([3, 6])
    other = source.clone()
    other[0, 3:] = (other[0, 3:] + 1) % VOCAB
    torch.testing.assert_close(
        model(other, counts, target), model(source, counts, target), rtol=0, atol=1e-12
    )
    alone = model(source[:1, :3], counts[:1], target[:1])
    torch.testing.assert_close(model(source, counts, target)[:1], alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in LANGUAGE if "transformer" not in name])
def test_state_is_carried_over_ragged_rows(name: str) -> None:
    model, ids, counts = language(name), torch.randint(VOCAB, (3, 8)), torch.tensor([8, 3, 5])
    _, state = model(ids, None, counts)
    for row, count in enumerate(counts.tolist()):
        _, alone = model(ids[row : row + 1, :count])
        for part, tensor in alone.items():
            torch.testing.assert_close(state[part][row : row + 1], tensor, rtol=1e-9, atol=1e-11)
    assert all(not tensor.requires_grad for tensor in detached(state).values())
    assert all(tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize("name", [name for name in LANGUAGE if "transformer" in name])
def test_a_transformer_sees_nothing_of_the_future(name: str) -> None:
    model, ids = language(name), torch.randint(VOCAB, (1, 8))
    later = ids.clone()
    later[0, 5:] = (later[0, 5:] + 1) % VOCAB
    torch.testing.assert_close(model(later)[0][:, :5], model(ids)[0][:, :5], rtol=0, atol=1e-12)
    assert (model(later)[0][:, 5:] - model(ids)[0][:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_parameter_learns(kind: str, name: str) -> None:
    model = make(kind, name)
    source, counts = torch.randint(VOCAB, (3, 6)), torch.tensor([2, 6, 3])
    # The sum of log-probabilities: a plain sum of logits would not reach what only shifts them.
    logits = model(source)[0] if kind == "language" else model(source, counts, source)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), source.flatten()).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().max() > 0, path


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_dropout_is_on_in_training_and_off_in_evaluation(kind: str, name: str) -> None:
    model = make(kind, name, dropout=0.5)
    source, counts = torch.randint(VOCAB, (2, 6)), torch.tensor([4, 6])

    def logits() -> Tensor:
        found: Tensor = model(source)[0] if kind == "language" else model(source, counts, source)
        return found

    assert torch.equal(logits(), logits())
    model.train()
    assert not torch.equal(logits(), logits())


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_bfloat16_autocast_trains(kind: str, name: str) -> None:
    model = make(kind, name)
    source, counts = torch.randint(VOCAB, (2, 6)), torch.tensor([4, 6])
    with torch.autocast("cpu", torch.bfloat16):
        if kind == "language":
            _, state = model(source)
            logits, _ = model(source, detached(state) or None)
        else:
            logits = model(source, counts, source)
    logits.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name", [name for name in TRANSLATOR if "alone" not in name and name != "rnn both ways"]
)
def test_attention_weights_sum_to_one_over_the_real_source(name: str) -> None:
    model = translator(name)
    source, counts = torch.randint(VOCAB, (2, 6)), torch.tensor([4, 6], dtype=torch.int32)
    carried = start(model, 2, model.encode({"ids": source, "counts": counts}))
    zero = torch.zeros(2, dtype=torch.int32)
    feeds = {**carried, "ids": source[:, :3], "counts": zero + 3, "lengths": zero, "source_counts": counts}
    weights = model.step({name: feeds[name] for name in model.step_inputs})["attention"]
    assert weights.shape == (2, 3, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert weights[0, :, 4:].count_nonzero() == 0


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_the_stepper_drives_the_module(kind: str, name: str) -> None:
    """Rows through `bundle.stepper`: joined, stepped, selected, against one pass over each row alone."""
    model = make(kind, name)
    encoder = TorchGraph(model, "encode") if isinstance(model, Translator) else None
    stepper = Stepper(TorchGraph(model), encoder, pad=0)
    rng = np.random.default_rng(4)
    prompts = [
        Prompt(tuple(rng.integers(0, VOCAB, n).tolist()), tuple(rng.integers(0, VOCAB, m).tolist()))
        for n, m in ((1, 5), (4, 2), (3, 9))
    ]
    _, first = stepper.prefill(prompts[:2])
    _, last = stepper.prefill(prompts[2:])
    state = stepper.select(stepper.join([first, last]), np.array([2, 0, 1, 0]))
    order = [prompts[i] for i in (2, 0, 1, 0)]
    more = rng.integers(0, VOCAB, (3, 4))
    for ids in more:
        logits, state = stepper.step(state, ids)
    for row, prompt in enumerate(order):
        whole = Prompt((*prompt.ids, *more[:, row].tolist()), prompt.source)
        np.testing.assert_allclose(logits[row], stepper.score([whole])[0][-1], atol=2e-5)


def test_a_graph_leaves_training_mode_as_it_was() -> None:
    model = make("language", "gru embedded", dropout=0.5).train()
    stepper = Stepper(TorchGraph(model), pad=0)
    first, second = (stepper.prefill([Prompt((1, 2, 3))])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training


def test_only_translators_encode() -> None:
    with pytest.raises(ValueError, match="translator"):
        TorchGraph(make("language", "rnn one-hot"), "encode")


def test_learned_positions_bear_padding_beyond_the_table() -> None:
    model = language("transformer learned", max_positions=4)
    ids, held = torch.randint(VOCAB, (2, 3)), torch.tensor([0, 3], dtype=torch.int32)
    carried = {
        name: tensor.new_zeros(2, 3, *tensor.shape[2:]) for name, tensor in start(model, 2, {}).items()
    }
    logits = advance(model, carried, ids, torch.tensor([3, 1], dtype=torch.int32), held)
    torch.testing.assert_close(logits[0], model(ids[:1])[0][0], rtol=1e-9, atol=1e-11)
