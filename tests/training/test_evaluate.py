"""Scores against numbers worked out by hand, and text against a plain loop over the training form."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bundle.tokenizer import Tokenizer
from training.batching import line_batches
from training.evaluate import corpus_scores, language_scores
from training.generate import complete, translate
from training.models import ModelConfig, build
from training.tokenizer import train_tokenizer

TEXTS = ["the sea", "is grey", "and old"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    train_tokenizer(TEXTS, tmp_path / "tokenizer.json", level="char")
    return Tokenizer.load(tmp_path / "tokenizer.json")


class Uniform(nn.Module):
    """Knows nothing: every one of 32 tokens is as likely."""

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        return torch.zeros(*ids.shape, 32), None


def test_knowing_nothing_costs_the_vocabulary(tokenizer: Tokenizer) -> None:
    batches = line_batches(tokenizer, TEXTS, bos=1, eos=2, pad=0, batch_tokens=20)
    scores = language_scores(Uniform(), batches, TEXTS)
    tokens, words = sum(len(text) + 1 for text in TEXTS), 9  # two words and an end in each of three lines
    assert scores["loss"] == pytest.approx(math.log(32))
    assert scores["perplexity"] == pytest.approx(32)
    assert scores["bits_per_character"] == pytest.approx(5)
    assert scores["perplexity_per_word"] == pytest.approx(32 ** (tokens / words))


def test_scores_do_not_depend_on_how_lines_are_batched(tokenizer: Tokenizer) -> None:
    torch.manual_seed(1)
    config = ModelConfig(architecture="transformer", hidden=16, heads=2)
    model = build("language", config, tokenizer.size).eval()
    found = [
        language_scores(
            model, line_batches(tokenizer, TEXTS, bos=1, eos=2, pad=0, batch_tokens=budget), TEXTS
        )["loss"]
        for budget in (8, 1000)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_translations_are_scored_by_sacrebleu_with_its_signature() -> None:
    references = ["The cat sat on the mat.", "It was a bright cold day in April."]
    same = corpus_scores(references, references)
    assert same["bleu"] == pytest.approx(100)
    assert same["chrf"] == pytest.approx(100)
    other = corpus_scores(["The cat sat on a mat.", "It was a cold day."], references)
    assert 0 < float(other["bleu"]) < 60
    assert str(other["bleu_signature"]).startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert str(other["chrf_signature"]).startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_single_words_have_no_bleu() -> None:
    assert corpus_scores(["enough"], ["enough"]).keys() == {"chrf", "chrf_signature"}


def likeliest(logits: Tensor) -> int:
    """Padding, bos and unk are no text: they are never generated."""
    return int(logits.index_fill(0, torch.tensor([0, 1, 3]), -math.inf).argmax())


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_completions_are_the_likeliest_tokens(tokenizer: Tokenizer, architecture: str) -> None:
    torch.manual_seed(3)
    config = ModelConfig(architecture=architecture, hidden=16, heads=2)  # type: ignore[arg-type]
    model = build("language", config, tokenizer.size).eval()
    expected = []
    for text in TEXTS:
        ids = [1, *tokenizer.encode(text)]
        for _ in range(6):
            with torch.inference_mode():
                best = likeliest(model(torch.tensor([ids]))[0][0, -1])
            if best == 2:
                break
            ids.append(best)
        expected.append(tokenizer.decode(ids[1 + len(text) :]))
    assert complete(model, tokenizer, TEXTS, max_tokens=6) == expected


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_translations_are_the_likeliest_tokens(tokenizer: Tokenizer, architecture: str) -> None:
    torch.manual_seed(3)
    config = ModelConfig(architecture=architecture, hidden=16, heads=2)  # type: ignore[arg-type]
    model = build("translator", config, tokenizer.size).eval()
    expected = []
    for text in TEXTS:
        source, ids = torch.tensor([[*tokenizer.encode(text), 2]]), [1]
        for _ in range(6):
            with torch.inference_mode():
                logits = model(source, torch.tensor([source.shape[1]]), torch.tensor([ids]))
            best = likeliest(logits[0, -1])
            if best == 2:
                break
            ids.append(best)
        expected.append(tokenizer.decode(ids[1:]))
    assert translate(model, tokenizer, TEXTS, max_tokens=6) == expected
