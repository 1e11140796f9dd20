"""Sizes of the literature by name, for `preset = "..."` in a recipe's [model] table.

Counted by `tests/training/test_models_presets.py`, trainable parameters, tied embeddings once:

| preset | vocabulary | ours | stated | where |
|---|---|---|---|---|
| transformer-base | 37,000 | 63.1 M | 65 M | Vaswani et al. 2017, table 3 |
| transformer-big | 37,000 | 214.3 M | 213 M | Vaswani et al. 2017, table 3 |
| gpt2-small | 50,257 | 124,439,808 | 117 M | Radford et al. 2019, table 2 |

The paper's 37,000 is rounded and its count too, hence a tolerance of 3.5 %. GPT-2's 117 M is a known slip
of the paper: the weights that OpenAI published under that name, and ours, have 124,439,808 parameters.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PRESETS: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "transformer-base": {
            "architecture": "transformer",
            "layers": 6,
            "hidden": 512,
            "heads": 8,
            "feedforward": 2048,
            "dropout": 0.1,
            "tied": True,
            "positions": "sinusoidal",
            "activation": "relu",
        },
        "transformer-big": {
            "architecture": "transformer",
            "layers": 6,
            "hidden": 1024,
            "heads": 16,
            "feedforward": 4096,
            "dropout": 0.3,
            "tied": True,
            "positions": "sinusoidal",
            "activation": "relu",
        },
        "gpt2-small": {
            "architecture": "transformer",
            "layers": 12,
            "hidden": 768,
            "heads": 12,
            "feedforward": 3072,
            "dropout": 0.1,
            "tied": True,
            "positions": "learned",
            "max_positions": 1024,
            "activation": "gelu",
        },
    }
)


def expand(table: Mapping[str, object]) -> dict[str, object]:
    """Replace `preset` in a recipe's [model] table by the keys it stands for; the table's own keys win.

    Raises:
        ValueError: there is no such preset.
    """
    keys = {key: value for key, value in table.items() if key != "preset"}
    if "preset" not in table:
        return keys
    name = table["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return {**PRESETS[name], **keys}
