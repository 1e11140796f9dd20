"""The translation task: a padded batch is its sentences, and both directions hold out the same pairs."""

from pathlib import Path

import pytest
import torch

from bundle.tokenizer import Tokenizer
from training.batching import NoData, encode_pairs, pad_pairs
from training.config import recipe_from
from training.corpus import split_of
from training.models import build
from training.tokenizer import train_tokenizer
from training.translation import TranslationTask

PAIRS = [(f"word {i} is here", f"le mot {i} {'est ' * (i % 5)}ici") for i in range(120)]


def task(
    folder: Path, architecture: str = "transformer", *, flip: bool = False, **settings: object
) -> TranslationTask:
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS), encoding="utf-8")
    source = {"path": str(folder / "pairs.tsv"), "name": "p", "licence": "CC0", "attribution": "us"}
    recipe = recipe_from(
        {
            "kind": "translator",
            "name": "small",
            "languages": ["fr", "en"] if flip else ["en", "fr"],
            "corpus": {"sources": [source | {"columns": ["en", "fr"]}], "held_out": 0.2} | settings,
            "tokenizer": {"level": "char"},
            "model": {"architecture": architecture, "hidden": 8, "heads": 2},
            "train": {
                "batch_tokens": 128,
                "evaluate_lines": 10,
                "evaluate_translations": 3,
                "max_tokens": 40,
            },
        }
    )
    train_tokenizer([text for pair in PAIRS for text in pair], folder / "tokenizer.json", level="char")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    assert recipe.model is not None
    torch.manual_seed(1)
    return TranslationTask(recipe, tokenizer, build("translator", recipe.model, tokenizer.size))


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_the_loss_of_a_batch_is_the_sum_of_its_sentences(tmp_path: Path, architecture: str) -> None:
    job = task(tmp_path, architecture)
    job.model.eval()
    encoded = encode_pairs(job.tokenizer.encode, PAIRS[:6], 100)
    together = job.loss(pad_pairs(encoded, 1, 2, 0)).item()
    alone = sum(job.loss(pad_pairs([pair], 1, 2, 0)).item() for pair in encoded)
    assert together == pytest.approx(alone, rel=1e-5)


def test_both_directions_hold_out_the_same_pairs(tmp_path: Path) -> None:
    there, back = task(tmp_path), task(tmp_path, flip=True)
    held_out = there._read_held_out(1000)
    assert {(b, a) for a, b in back._read_held_out(1000)} == set(held_out)
    tested = [pair for pair in PAIRS if split_of(pair[0], 0.2) == "test"]
    assert sorted(held_out + list(there._pairs(0)) + tested) == sorted(PAIRS)
    assert 2 < len(held_out) < 25


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="held_out = 1e-09 leaves no pair"):
        task(tmp_path, held_out=1e-9).evaluate(torch.nn.Identity())


def test_the_final_scores_name_their_set_and_decoding(tmp_path: Path) -> None:
    job = task(tmp_path)
    random = torch.get_rng_state()
    scores = job.final(job.model.eval())
    assert scores["set"] == "development half of the held-out 20.00% of the corpora by hash"
    assert (scores["sentences"], scores["beam"]) == (3, 1)
    assert {"bleu", "bleu_signature", "chrf", "chrf_signature", "loss"} <= scores.keys()
    assert torch.equal(random, torch.get_rng_state())
