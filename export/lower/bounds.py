"""How large the numbers behind a layer norm become, found by looking.

A layer norm gives its numbers one size, whatever it reads. In the models that ship, the largest of them on
real text was at most 1.07 times the largest on random tokens, and mostly less. So no text is needed to find a
scale that serves every row, and a product behind a norm need not look at its rows first.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from training.models.transformer import TransformerLanguage, TransformerTranslator

ROWS: Final = 16
TOKENS: Final = 64
"""Of a row, or as many as the model has positions for."""


def norm_bounds(model: TransformerLanguage | TransformerTranslator) -> dict[str, float]:
    """The bound of each layer norm of a model, by its name."""
    found: dict[str, float] = {}

    def watch(name: str, module: nn.LayerNorm) -> torch.utils.hooks.RemovableHandle:
        def look(_: nn.Module, __: tuple[Tensor, ...], normed: Tensor) -> None:
            found[name] = max(found.get(name, 0.0), float(normed.abs().max()))

        return module.register_forward_hook(look)

    watched = [watch(name, each) for name, each in model.named_modules() if isinstance(each, nn.LayerNorm)]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _read(model)
    finally:
        model.train(training)
        for each in watched:
            each.remove()
    # rounded up, so that two machines that add in different orders write one bundle
    return {name: math.ceil(bound * 8) / 8 for name, bound in found.items()}


def _read(model: TransformerLanguage | TransformerTranslator) -> None:
    config = model.config
    learned = config.positions == "learned"
    length = min(TOKENS, config.max_positions) if learned else TOKENS
    random = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    source, target = torch.randint(model.vocab_size, (2, ROWS, length), generator=random).to(device)
    if isinstance(model, TransformerTranslator):
        model(source, torch.full((ROWS,), length, device=device), target)
    else:
        model(target)
