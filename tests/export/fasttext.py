"""A small FastText model by gensim, and the run folder that a job would have left of it."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
from gensim.models import FastText

from training.config import encode_recipe, recipe_from
from training.corpus import Digest
from training.tokenizer import listed, save
from training.word2vec import write_vectors

STEMS = ["chant", "parl", "march", "dans", "port", "montr", "étudi", "regard"]
ENDINGS = ["er", "e", "es", "ons", "ez", "ent", "ait", "é", "ée", "eur", "euse"]


def train(run: Path, *, language: str = "fr", bucket: int = 2000, seed: int = 1) -> FastText:
    """Verbs in all their forms, each beside the others of its stem; `run` is filled."""
    draw = random.Random(seed)
    sentences = []
    for number in range(1500):
        stem = STEMS[number % len(STEMS)]
        sentences.append([stem + draw.choice(ENDINGS) for _ in range(5)] + ["aujourd'hui", "à_la"])
    shape = {"min_n": 2, "max_n": 5, "bucket": bucket}
    model = FastText(sentences, vector_size=16, min_count=1, workers=1, seed=seed, sg=1, epochs=3, **shape)
    source = {"path": "text", "name": "Made up", "licence": "CC0", "attribution": "nobody"}
    recipe = recipe_from(
        {
            "kind": "vectors",
            "name": "words",
            "languages": [language],
            "corpus": {"sources": [source], "held_out": 0.0},
            "tokenizer": {"level": "word"},
            "vectors": {"size": 16, "subwords": True, **shape},
        }
    )
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(encode_recipe(recipe), encoding="utf-8")
    digests = [Digest("Made up", "CC0", "nobody", "0" * 64)]
    (run / "corpora.json").write_bytes(msgspec.json.encode(digests))
    save(listed(model.wv.index_to_key, level="word", lowercase=True, phrases=True), run / "tokenizer.json")
    write_vectors(model, run)
    return model
