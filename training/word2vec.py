"""Word2Vec (Mikolov et al. 2013) or FastText (Bojanowski et al. 2017) by gensim, as a training job.

The corpus is cleaned once into files of one sentence a line, from which gensim's threads read without
Python: that is what makes two cores worth having. There are several files because gensim tells its progress
only when it is through with one.

gensim cannot continue an interrupted run exactly, so a killed job starts again from the beginning; the
vectors of the last completed epoch are in the run folder and can be exported all the same.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gensim.models import FastText, Word2Vec
from tqdm import tqdm

from bundle.errors import VoisinError
from training import similarity
from training.config import Recipe, VectorsConfig, load_recipe
from training.corpus import lines
from training.sentences import Shard, count_words, join_phrases, split_sentences, words, write_sentences
from training.tokenizer import SPECIALS, listed, save

Matrix = npt.NDArray[np.float32]

_HELD_OUT_LINES = 1000
_SHARD_WORDS = 3_000_000
# The rates of the original program; gensim's own default for both is skip-gram's.
_RATE = {True: 0.025, False: 0.05}
NGRAMS = "ngrams.npy"


class CorpusTooSmall(VoisinError):
    """No word is left to learn."""


def fit(recipe: Recipe, run: Path) -> dict[str, object]:
    """Train the vectors of a recipe and fill the run folder; returns what goes into evaluation.json.

    Written: tokenizer.json, vectors.npy (float32 [vocab, hidden], as learnt, not normalised; rows of special
    tokens are zero), counts.npy (int64 [vocab]), with subwords ngrams.npy (float32 [bucket, hidden]),
    metrics.jsonl, samples.txt and evaluation.json. Row i belongs to token id i; ids follow frequency. With
    one worker the same recipe gives the same vectors bit for bit.

    Raises: CorpusError, CorpusTooSmall; ValueError for a recipe without [vectors].
    """
    config = recipe.vectors
    if config is None:
        raise ValueError("the recipe has no [vectors]")
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="sentences-", dir=run) as folder:
        sentences = Path(folder) / "sentences.txt"
        model = _train(recipe, config, sentences, run)
    evaluation = evaluate(model.wv.index_to_key, model.wv.vectors, recipe)
    _write_json(run / "evaluation.json", evaluation)
    (run / "samples.txt").write_text("".join(_samples(model, recipe)), encoding="utf-8")
    return evaluation


def evaluate(vocabulary: list[str], vectors: Matrix, recipe: Recipe) -> dict[str, object]:
    """What the vectors can do: similarity and analogies for English, for which there are public sets."""
    out: dict[str, object] = {"vocabulary": len(vocabulary), "size": int(vectors.shape[1])}
    if recipe.languages == ["en"]:
        out.update(similarity.evaluate(vocabulary, vectors))
    return out


def _train(recipe: Recipe, config: VectorsConfig, path: Path, run: Path) -> Word2Vec:
    language = recipe.languages[0]
    source = recipe.corpus.sources
    fraction = recipe.corpus.held_out
    texts = lines(source, language=language, held_out=fraction, split="train", seed=recipe.seed)
    tqdm.write("cleaning the corpus")
    count, _ = write_sentences(tqdm(texts, unit=" lines", unit_scale=True), path, language)
    for _ in range(config.phrases):
        tqdm.write(f"phrases: {join_phrases(path, language, min_count=config.min_count)}")
    counts = count_words(path)
    total = sum(counts.values())
    ranked = sorted(
        (word for word in counts if counts[word] >= config.min_count), key=lambda w: (-counts[w], w)
    )
    kept = ranked[: config.max_vocabulary or None]
    if not kept:
        raise CorpusTooSmall(f"no word occurs {config.min_count} times in {total} words")
    model = _model(config, recipe.seed)
    model.build_vocab_from_freq({word: counts[word] for word in kept}, corpus_count=count)
    save(listed(model.wv.index_to_key, level="word", lowercase=True, phrases=True), run / "tokenizer.json")
    tqdm.write(f"{total:,} words, {len(kept):,} of {len(counts):,} different ones kept")

    shards = split_sentences(path, _SHARD_WORDS)
    held_out = _held_out(recipe, path)
    start = time.perf_counter()
    with tqdm(total=total * config.epochs, unit=" words", unit_scale=True, smoothing=0) as bar:
        for epoch in range(1, config.epochs + 1):
            _epoch(model, shards, bar)
            write_vectors(model, run, config.spectrum)
            seconds = time.perf_counter() - start
            measured = {
                "epoch": epoch,
                "loss": loss(model, held_out, config.window),
                "words_per_second": round(epoch * total / seconds),
                "seconds": round(seconds, 3),
            }
            with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(measured) + "\n")
            bar.write(f"epoch {epoch}: loss {measured['loss']:.4f}")
    model.wv.vectors = model.wv.vectors @ spectral_map(model.wv.vectors, config.spectrum)
    model.wv.fill_norms(force=True)
    return model


def _epoch(model: Word2Vec, shards: list[Shard], bar: tqdm[Any]) -> None:
    """One pass over the shards; the learning rate goes on falling with every word, as in one long call."""
    for shard in shards:
        rates = []
        for done in (bar.n, bar.n + shard.words):
            rates.append(model.alpha + (model.min_alpha - model.alpha) * done / bar.total)
        model.train(
            corpus_file=str(shard.path),
            total_examples=shard.lines,
            total_words=shard.words,
            epochs=1,
            start_alpha=rates[0],
            end_alpha=rates[1],
        )
        bar.update(shard.words)


def _model(config: VectorsConfig, seed: int) -> Word2Vec:
    more = {"bucket": config.bucket, "min_n": config.min_n, "max_n": config.max_n} if config.subwords else {}
    return (FastText if config.subwords else Word2Vec)(
        vector_size=config.size,
        window=config.window,
        sg=int(config.skip_gram),
        alpha=config.learning_rate or _RATE[config.skip_gram],
        negative=config.negative,
        hs=int(config.hierarchical_softmax),
        sample=config.subsample,
        min_count=1,  # the vocabulary is chosen beforehand
        workers=config.workers,
        seed=seed,
        **more,
    )


def _held_out(recipe: Recipe, path: Path) -> list[list[str]]:
    """Sentences for the loss: held-out ones, or the first of the training text where nothing is held out."""
    language = recipe.languages[0]
    fraction = recipe.corpus.held_out
    out: list[list[str]] = []
    if fraction:
        texts = lines(
            recipe.corpus.sources, language=language, held_out=fraction, split="development", seed=recipe.seed
        )
        for text in texts:
            out.append(words(text, language))
            if len(out) == _HELD_OUT_LINES:
                break
    else:
        with path.open(encoding="utf-8") as file:
            out = [line.split() for line, _ in zip(file, range(_HELD_OUT_LINES), strict=False)]
    return out


def loss(model: Word2Vec, sentences: list[list[str]], window: int) -> float:
    """Mean objective over one window a sentence, in nats; the same windows and negatives at every call.

    The windows are those of training: frequent words left out as often as there, and of a random reach.

    Negative sampling: -log s(u.v) - sum over the negatives of log s(-u.v); hierarchical softmax:
    -log p(word) along its path. gensim's own running loss is a float32 sum shared by threads, of no use on a
    corpus of any size. NaN where no sentence holds two known words.
    """
    draw = np.random.default_rng(0)
    vocabulary = model.wv.key_to_index
    noise = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key], np.float64)
    noise = np.cumsum(noise**model.ns_exponent)
    kept = np.array([model.wv.get_vecattr(word, "sample_int") for word in model.wv.index_to_key]) / 2**32
    vectors = model.wv.vectors
    values = []
    for sentence in sentences:
        ids = [vocabulary[word] for word in sentence if word in vocabulary]
        ids = [id for id in ids if draw.random() < kept[id]]
        if len(ids) < 2:
            continue
        place = int(draw.integers(len(ids)))
        reach = int(draw.integers(1, window + 1))
        around = [*ids[max(0, place - reach) : place], *ids[place + 1 : place + 1 + reach]]
        # Skip-gram reads one word of the window at a time, CBOW its mean.
        hidden = vectors[around] if model.sg else vectors[around].mean(0, keepdims=True)
        value = 0.0
        if model.negative:
            wrong = np.searchsorted(noise, draw.random(model.negative) * noise[-1], side="right")
            signs = np.array([1.0] + [-1.0] * model.negative)
            logits = hidden @ model.syn1neg[[ids[place], *wrong]].T
            value += float(np.logaddexp(0, -signs * logits).sum(1).mean())
        if model.hs:
            word = model.wv.index_to_key[ids[place]]
            signs = 1.0 - 2.0 * model.wv.get_vecattr(word, "code")
            logits = hidden @ model.syn1[model.wv.get_vecattr(word, "point")].T
            value += float(np.logaddexp(0, -signs * logits).sum(1).mean())
        values.append(value)
    return float(np.mean(values)) if values else float("nan")


def spectral_map(vectors: Matrix, exponent: float) -> Matrix:
    """The matrix [hidden, hidden] that raises the singular values of the unit vectors to a power.

    With U S V' the vectors at unit length, what is multiplied by V S**(exponent - 1) V' becomes U S**exponent
    V': the weighting of eigenvalues of Levy, Goldberg and Dagan (2015), which Artetxe et al. (2018) call the
    order of similarity. It is linear, so that sums of n-gram rows may be mapped as well as words.

    vectors: [vocab, hidden].
    """
    if exponent == 1.0:
        return np.eye(vectors.shape[1], dtype=np.float32)
    wide = vectors.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    squares, basis = np.linalg.eigh(unit.T @ unit)
    # directions that no word has stay as they are
    values = np.sqrt(np.maximum(squares, 1e-12 * squares[-1]))
    # the mean length of a vector stays about what it was
    values /= values.mean()
    mapping: Matrix = ((basis * values ** (exponent - 1.0)) @ basis.T).astype(np.float32)
    return mapping


def write_vectors(model: Word2Vec, run: Path, spectrum: float = 1.0) -> None:
    """vectors.npy, counts.npy and, with subwords, ngrams.npy, each replaced whole.

    spectrum: see :func:`spectral_map`; the model itself stays as it is.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    if isinstance(model, FastText):
        model.wv.adjust_vectors()  # whole-word rows are means of n-gram rows, made only when asked
        arrays[NGRAMS] = model.wv.vectors_ngrams.astype(np.float32)
    else:
        (run / NGRAMS).unlink(missing_ok=True)  # of an earlier job
    specials = len(SPECIALS)
    mapping = spectral_map(model.wv.vectors, spectrum)
    if NGRAMS in arrays:
        arrays[NGRAMS] = arrays[NGRAMS] @ mapping
    vectors = np.pad(model.wv.vectors.astype(np.float32) @ mapping, ((specials, 0), (0, 0)))
    counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key], np.int64)
    arrays |= {"vectors.npy": vectors, "counts.npy": np.pad(counts, (specials, 0))}
    for name, array in arrays.items():
        beside = run / f".{name}"
        np.save(beside.with_suffix(".part.npy"), array)
        beside.with_suffix(".part.npy").replace(run / name)


def load_run(run: Path) -> tuple[list[str], Matrix, Recipe]:
    """What a run offers to export: tokens by id, vectors float32 [vocab, hidden], recipe (paths as written).

    Ids are in the order of frequency, so `vectors.kept` of the recipe cuts off the rarest words.
    """
    recipe = load_recipe(run / "recipe.toml", expand=False)
    written = json.loads((run / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = written["model"]["vocab"]
    vectors: Matrix = np.load(run / "vectors.npy", allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise VoisinError(f"{run}: {len(ids)} tokens but vectors of shape {vectors.shape}")
    kept = (recipe.vectors.kept if recipe.vectors else 0) or len(ids)
    return sorted(ids, key=ids.__getitem__)[:kept], vectors[:kept], recipe


def load_ngrams(run: Path) -> Matrix | None:
    """The n-gram rows float32 [bucket, hidden] of a run with subwords; None of one without.

    Raises: VoisinError where they are missing or not of the recipe's size.
    """
    config = load_recipe(run / "recipe.toml", expand=False).vectors
    if config is None or not config.subwords:
        return None
    try:
        ngrams: Matrix = np.load(run / NGRAMS, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise VoisinError(f"{run / NGRAMS}: {error}; vectors with subwords need it, train again") from None
    if ngrams.shape != (config.bucket, config.size):
        raise VoisinError(f"{run / NGRAMS}: shape {ngrams.shape}, not {(config.bucket, config.size)}")
    return ngrams


def _samples(model: Word2Vec, recipe: Recipe) -> Iterator[str]:
    """Neighbours of the recipe's sample words, or of the most frequent long words."""
    probes = recipe.train.samples or [word for word in model.wv.index_to_key if len(word) > 4][:10]
    for probe in probes:
        if probe in model.wv:
            near = ", ".join(f"{word} {cosine:.2f}" for word, cosine in model.wv.most_similar(probe))
            yield f"{probe}: {near}\n"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
