"""Parameter counts of the presets, on the meta device: nothing is allocated."""

import msgspec
import pytest
import torch

from training.models import PRESETS, ModelConfig, build, count_parameters, expand


def count(kind: str, preset: str, vocab_size: int) -> int:
    config = msgspec.convert(expand({"preset": preset}), ModelConfig)
    with torch.device("meta"):
        return count_parameters([build(kind, config, vocab_size)])  # type: ignore[arg-type]


# Vaswani et al. 2017, table 3, with the shared byte-pair vocabulary of "about 37000" of section 5.1. The
# paper rounds both numbers and says nothing of biases, hence the tolerance; ours counts the tied matrix once.
@pytest.mark.parametrize(
    ("preset", "stated", "ours"),
    [("transformer-base", 65e6, 63_084_544), ("transformer-big", 213e6, 214_249_472)],
)
def test_transformers_of_vaswani(preset: str, stated: float, ours: int) -> None:
    found = count("translator", preset, 37_000)
    assert found == ours
    assert found == pytest.approx(stated, rel=0.035)


def test_gpt2_small() -> None:
    """The published weights have 124,439,808; the 117 M of Radford et al. 2019, table 2, is a slip."""
    width, layers, vocabulary, context = 768, 12, 50_257, 1024
    attention = 4 * width * width + 4 * width
    feedforward = 2 * 4 * width * width + 5 * width
    norms = 4 * width
    by_hand = (vocabulary + context) * width + layers * (attention + feedforward + norms) + 2 * width
    assert by_hand == 124_439_808
    assert count("language", "gpt2-small", vocabulary) == by_hand
    assert by_hand == pytest.approx(117e6, rel=0.07)


def test_keys_override_a_preset() -> None:
    table = expand({"preset": "transformer-base", "layers": 2})
    assert table["layers"] == 2
    assert table["hidden"] == 512
    assert "preset" not in table
    assert PRESETS["transformer-base"]["layers"] == 6


def test_without_preset_a_table_is_itself() -> None:
    assert expand({"architecture": "gru"}) == {"architecture": "gru"}


@pytest.mark.parametrize("name", ["bert", 3])
def test_unknown_preset(name: object) -> None:
    with pytest.raises(ValueError, match="gpt2-small"):
        expand({"preset": name})


def test_a_tied_matrix_counts_once() -> None:
    shape = {"architecture": "transformer", "hidden": 8, "heads": 2}
    tied, free = (
        count_parameters([build("language", ModelConfig(tied=tied, **shape), 50)])  # type: ignore[arg-type]
        for tied in (True, False)
    )
    assert free - tied == 50 * 8 + 50


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"architecture": "cnn"}, "architecture"),
        ({"architecture": "gru", "width": 3}, "width"),
        ({"architecture": "gru", "layers": 0}, "layers must be at least 1"),
        ({"architecture": "gru", "embedding": -1}, "embedding must not be negative"),
        ({"architecture": "gru", "dropout": 1.0}, "dropout"),
        ({"architecture": "gru", "tied": True}, "one-hot"),
        ({"architecture": "lstm", "encoder_layers": 2}, "both have"),
        ({"architecture": "lstm", "hidden": 33, "bidirectional": True}, "even"),
        ({"architecture": "transformer", "hidden": 30}, "multiple of heads"),
        ({"architecture": "transformer", "hidden": 5, "heads": 5}, "even"),
        ({"architecture": "transformer", "embedding": 64}, "as wide as hidden"),
    ],
)
def test_impossible_shapes_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(table, ModelConfig)


def test_impossible_models_are_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        build("vectors", ModelConfig(architecture="gru"), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vocab_size"):
        build("language", ModelConfig(architecture="gru"), 0)
