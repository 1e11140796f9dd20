"""Where a bundle says it looked is where the module that was trained looked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.stepper import Prompt, Stepper
from tests.export.test_lower import VOCAB, make, opened
from training.models import Translator

BOUND = 1e-4
RAGGED = [(5, 4), (2, 9), (7, 1), (3, 3)]  # target and source tokens


def random_prompts() -> list[Prompt]:
    rng = np.random.default_rng(3)
    draw = lambda size: tuple(int(id) for id in rng.integers(4, VOCAB, size))  # noqa: E731
    return [Prompt((1, *draw(target - 1)), (*draw(source - 1), 2)) for target, source in RAGGED]


@pytest.mark.parametrize(
    "name", ["lstm translator", "rnn translator", "transformer translator", "transformer translator 1+2"]
)
def test_attention_is_the_module_s(name: str, tmp_path: Path) -> None:
    model = make(name)
    assert isinstance(model, Translator)
    sessions = opened(model, "fp32", tmp_path)
    stepper = Stepper(sessions["decoder"], sessions["encoder"], pad=0)
    assert stepper.aligns
    prompts = random_prompts()
    together = stepper.align(prompts)
    for prompt, found in zip(prompts, together, strict=True):
        wanted = _attention(model, prompt)
        assert found.shape == (len(prompt.ids), len(prompt.source))
        np.testing.assert_allclose(found, wanted, atol=BOUND)
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=BOUND)
        np.testing.assert_array_equal(found, stepper.align([prompt])[0])


def test_a_graph_without_attention_says_so(tmp_path: Path) -> None:
    sessions = opened(make("lstm translator without attention"), "fp32", tmp_path)
    stepper = Stepper(sessions["decoder"], sessions["encoder"], pad=0)
    assert not stepper.aligns
    with pytest.raises(ValueError, match="no output attention"):
        stepper.align(random_prompts())


def _attention(model: Translator, prompt: Prompt) -> np.ndarray:
    """Of one row, by the step form of the module: ``[target, source]``."""
    ids, source = torch.tensor([prompt.ids]), torch.tensor([prompt.source])
    counts = torch.tensor([len(prompt.source)], dtype=torch.int32)
    feeds = dict(model.encode({"ids": source, "counts": counts}))
    feeds |= {"ids": ids, "source_counts": counts, "lengths": torch.zeros(1, dtype=torch.int32)}
    feeds["counts"] = torch.tensor([len(prompt.ids)], dtype=torch.int32)
    for spec in model.step_inputs.values():
        if spec.name not in feeds:
            feeds[spec.name] = torch.zeros([1, 0, *(axis for axis in spec.axes[2:] if isinstance(axis, int))])
    with torch.no_grad():
        weights = model.step({name: feeds[name] for name in model.step_inputs})["attention"]
    return weights[0].numpy()
