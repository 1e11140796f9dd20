"""BPE dropout: other tokens, the same text; without dropout, the tokenizer's own cut."""

from pathlib import Path

import numpy as np
import pytest

from bundle.tokenizer import Tokenizer
from training.subwords import SubwordDropout
from training.tokenizer import train_tokenizer

TEXTS = [f"the lower tower's {n} flowers were newer, l'été n'est pas là {n * 37}" for n in range(60)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_tokenizer(TEXTS, path, level="bpe", size=340, translator=True, plain=True)
    return Tokenizer.load(path)


def test_without_dropout_it_is_the_tokenizer(tokenizer: Tokenizer) -> None:
    cutter = SubwordDropout(tokenizer.to_json(), 0.0)
    random = np.random.default_rng(1)
    for text in [*TEXTS, "never seen: Übung, 東京 1984", " two  spaces ", ""]:
        assert cutter.encode(text, random) == tokenizer.encode(text)


def test_every_cut_spells_the_text(tokenizer: Tokenizer) -> None:
    cutter = SubwordDropout(tokenizer.to_json(), 0.3)
    random = np.random.default_rng(1)
    cuts = [cutter.encode(TEXTS[7], random) for _ in range(40)]
    assert {tokenizer.decode(cut) for cut in cuts} == {TEXTS[7]}
    assert len(set(map(tuple, cuts))) > 20
    whole = len(tokenizer.encode(TEXTS[7]))
    assert whole < np.mean([len(cut) for cut in cuts]) < 2 * whole


def test_the_same_random_numbers_give_the_same_cuts(tokenizer: Tokenizer) -> None:
    def cuts(order: list[str]) -> dict[str, list[int]]:
        cutter = SubwordDropout(tokenizer.to_json(), 0.3)
        return {text: cutter.encode(text, np.random.default_rng(5)) for text in order}

    # what was cut before is of no account: a resumed job has another past
    assert cuts(TEXTS) == cuts(TEXTS[::-1])


def test_it_needs_a_bpe_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TEXTS, path, level="char")
    with pytest.raises(ValueError, match="bpe"):
        SubwordDropout(Tokenizer.load(path).to_json(), 0.1)
