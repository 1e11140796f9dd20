"""Muon makes matrices orthogonal, stacked ones block by block, and leaves the rest to AdamW."""

import math

import pytest
import torch
from torch import nn

from training.config import Train
from training.models import build
from training.models.config import ModelConfig
from training.optimizer import Muon, Optimizers, inner_matrices, orthogonalised


@pytest.mark.parametrize("shape", [(12, 12), (3, 8, 20), (2, 20, 8)])
def test_singular_values_become_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalised(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(found)
    # the smallest singular values of a square matrix are still on their way up after five steps
    assert values.max() < 1.25
    assert values.median() > 0.65
    aligned = torch.einsum("...ij,...ij->...", found, left @ right) / min(shape[-2:])
    assert (aligned > 0.8).all()


def test_blocks_are_updated_one_by_one() -> None:
    torch.manual_seed(0)
    stacked = nn.Parameter(torch.randn(12, 6))
    parts = [nn.Parameter(part.clone()) for part in stacked.detach().chunk(3)]
    together = Muon([(stacked, 3)], lr=0.1, weight_decay=0.01)
    apart = Muon([(part, 1) for part in parts], lr=0.1, weight_decay=0.01)
    for _ in range(3):
        stacked.grad = torch.randn_like(stacked)
        for part, gradient in zip(parts, stacked.grad.chunk(3), strict=True):
            part.grad = gradient.clone()
        together.step()
        apart.step()
    assert torch.allclose(stacked, torch.cat([part.detach() for part in parts]), atol=1e-6)


def test_the_first_step_has_the_size_of_adam_s() -> None:
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.zeros(64, 256))
    matrix.grad = torch.randn_like(matrix) * 1e-3
    Muon([(matrix, 1)], lr=1.0).step()
    assert matrix.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        # attention's stacked projections and its output, two of the feed-forward layer; learned positions and
        # tokens are embeddings
        ("language", ModelConfig(architecture="transformer", hidden=8, layers=2, tied=True), {1: 6, 3: 2}),
        ("language", ModelConfig(architecture="lstm", hidden=8, embedding=4), {4: 2}),
        ("language", ModelConfig(architecture="gru", hidden=8, embedding=4), {3: 2}),
        # Luong's two matrices beside the cells of both sides
        ("translator", ModelConfig(architecture="lstm", hidden=8, embedding=4), {1: 2, 4: 4}),
    ],
)
def test_inner_matrices(kind: str, config: ModelConfig, expected: dict[int, int]) -> None:
    model = build(kind, config, 50)  # type: ignore[arg-type]
    found = list(inner_matrices(model))
    counts: dict[int, int] = {}
    for parameter, blocks in found:
        assert parameter.shape[0] % blocks == 0
        assert 50 not in parameter.shape
        counts[blocks] = counts.get(blocks, 0) + 1
    assert counts == expected
    optimizers = Optimizers(model, Train(optimizer="muon"))
    held = [id(p) for one in optimizers.all for group in one.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_other_optimisers_are_not_resumed() -> None:
    model = build("language", ModelConfig(architecture="lstm", hidden=8, embedding=4), 20)
    adamw, muon = Optimizers(model, Train()), Optimizers(model, Train(optimizer="muon"))
    with pytest.raises(ValueError, match="another"):
        muon.load_state_dict(adamw.state_dict())
    assert math.isclose(muon.rate, Train().learning_rate)
