"""How large the numbers behind a layer norm become."""

from __future__ import annotations

import torch
from torch import nn

from export.lower import lower
from export.lower.bounds import norm_bounds
from training.models import build
from training.models.config import ModelConfig
from training.models.transformer import TransformerLanguage, TransformerTranslator


def made(kind: str) -> TransformerLanguage | TransformerTranslator:
    torch.manual_seed(5)
    config = ModelConfig(
        architecture="transformer",
        encoder_layers=2 if kind == "translator" else 0,
        decoder_layers=2,
        hidden=32,
        heads=4,
        positions="learned",
        max_positions=24,
    )
    model = build(kind, config, 90)  # type: ignore[arg-type]
    assert isinstance(model, TransformerLanguage | TransformerTranslator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.2, 3.0)
                module.bias.normal_()
    return model


def test_every_norm_has_a_bound_and_the_same_one_each_time() -> None:
    model = made("translator")
    names = {name for name, each in model.named_modules() if isinstance(each, nn.LayerNorm)}
    found = norm_bounds(model)
    assert set(found) == names
    assert found == norm_bounds(model)
    assert model.training
    assert not any(each._forward_hooks for each in model.modules())


def test_no_number_of_other_tokens_is_much_larger() -> None:
    model = made("language").eval()
    bounds = norm_bounds(model)
    seen: dict[str, float] = {}
    for name, each in model.named_modules():
        if isinstance(each, nn.LayerNorm):
            each.register_forward_hook(lambda _, __, y, name=name: seen.update({name: float(y.abs().max())}))
    with torch.no_grad():
        model(torch.randint(90, (64, 24), generator=torch.Generator().manual_seed(99)))
    for name, largest in seen.items():
        assert 0.5 * bounds[name] < largest < 1.1 * bounds[name], name


def test_a_product_behind_a_norm_does_not_look_at_its_rows() -> None:
    """Two norms and two other inputs a layer, and the last norm: only the other inputs are looked at."""
    graph = lower(made("language").eval(), "int8", "fast")["model.onnx"].graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 4 * 2 + 1
    assert kinds.count("Abs") == 2  # what attention gives; what ReLU gives has no sign
    assert kinds.count("Div") == 2 * 2 + ("Mod" in kinds)
