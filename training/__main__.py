"""``python -m training RECIPE.toml [--set a.b=c]... [--run FOLDER] [--resume]``"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bundle.errors import VoisinError
from training.config import Recipe, RecipeError, encode_recipe, load_recipe
from training.corpus import Digest


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what a recipe asks for. 0 done; 1 the job failed or was interrupted; 2 the recipe or its corpora
    are at fault, told in one line."""
    options = _parser().parse_args(arguments)
    try:
        recipe = load_recipe(options.recipe, options.set)
        text = encode_recipe(load_recipe(options.recipe, options.set, expand=False))
    except VoisinError as error:
        return _fail(error, 2)
    # Tokenizers' own threads would fight with torch's for the same cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if recipe.train.threads == 1 else "true")
    from training.corpus import CorpusError
    from training.tokenizer import TokenizerError

    folder = options.run or Path("runs") / recipe.name
    try:
        train(recipe, text, folder, resume=options.resume)
    except (RecipeError, CorpusError, TokenizerError) as error:
        return _fail(error, 2)
    except VoisinError as error:
        return _fail(error, 1)
    except OSError as error:  # a full disk says so wherever it is written to
        return _fail(f"{error.filename or folder}: {error.strerror or error}", 1)
    return 0


def train(recipe: Recipe, text: str, folder: Path, *, resume: bool = False) -> None:
    """Runs one job into a run folder.

    There it leaves ``recipe.toml``, ``corpora.json`` and ``tokenizer.json``, then ``checkpoints/``,
    ``metrics.jsonl``, ``curves.png``, ``samples.txt`` and ``evaluation.json``; for vectors, what
    ``word2vec.fit`` writes.

    Args:
        text: the recipe as it is kept in the folder, without this machine's paths.
        resume: go on from the folder's last checkpoint; without one, begin.

    Raises:
        VoisinError: one of its kinds, naming the place.
    """
    from training import checkpoint, corpus

    last = folder / checkpoint.CHECKPOINTS / checkpoint.LAST
    begun = last.exists()
    if resume and begun:
        _same(recipe, folder)
    elif not resume and (folder / checkpoint.CHECKPOINTS).exists():
        raise RecipeError(folder, "holds a run already: --resume goes on with it, --run names another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checkpoint.RECIPE).write_text(text, encoding="utf-8")
    names = recipe.augment.names if recipe.augment else []
    corpora = corpus.digests([*recipe.corpus.sources, *names])
    if resume and begun:
        _same_text(corpora, folder)
    _write_json(folder / "corpora.json", corpora)
    if recipe.kind == "vectors":
        from training import word2vec

        word2vec.fit(recipe, folder)
        return
    _network(recipe, text, folder, resume and begun)


def _network(recipe: Recipe, text: str, folder: Path, resume: bool) -> None:
    """A model that the loop trains."""
    import torch

    from bundle.tokenizer import Tokenizer
    from training.checkpoint import TOKENIZER, load_model
    from training.loop import Loop
    from training.models import count_parameters
    from training.prepare import make_task, make_tokenizer

    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    if not resume:
        make_tokenizer(recipe, folder / TOKENIZER)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    task = make_task(recipe, tokenizer)
    parameters = count_parameters([task.model])
    print(f"{recipe.name}: {parameters:,} parameters, {tokenizer.size:,} ids", file=sys.stderr)
    loop = Loop(task, recipe.train, folder, name=recipe.name, text=text)
    if resume:
        loop.resume()
    loop.run()
    best, _ = load_model(folder)
    scores = task.final(best)
    samples = "".join(f"{line}\n" for line in task.samples(best))
    (folder / "samples.txt").write_text(samples, encoding="utf-8")
    _write_json(folder / "evaluation.json", scores)
    print(f"{recipe.name}: " + ", ".join(f"{key} {value}" for key, value in scores.items()), file=sys.stderr)


def _write_json(path: Path, value: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _same(recipe: Recipe, folder: Path) -> None:
    """Refuses to resume another job. How long and how often may change; what is trained on what may not."""
    from training.checkpoint import RECIPE

    before = load_recipe(folder / RECIPE, expand=False)
    for part in ("kind", "languages", "seed", "tokenizer", "model"):
        if getattr(before, part) != getattr(recipe, part):
            raise RecipeError(folder / RECIPE, f"{part} differs from the recipe given: not the run to resume")


def _same_text(corpora: list[Digest], folder: Path) -> None:
    """Refuses to go on where a corpus is no longer the text that the run began with."""
    path = folder / "corpora.json"
    try:
        before = msgspec.json.decode(path.read_bytes(), type=list[Digest])
    except FileNotFoundError:
        return
    except (OSError, msgspec.MsgspecError) as error:
        raise RecipeError(path, str(error)) from None
    for digest in corpora:
        same_name = [old for old in before if old.name == digest.name]
        if same_name and all(old.sha256 != digest.sha256 for old in same_name):
            commit = same_name[0].revision
            hint = f"; name its revision, {commit}, to go on with it" if commit else ""
            raise RecipeError(path, f"the corpus {digest.name} has changed since the run began{hint}")


def _fail(error: Exception | str, code: int) -> int:
    print(f"voisin-train: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="voisin-train", description="Train what a recipe asks for.")
    parser.add_argument("recipe", type=Path, help="a recipe, TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="override a key of the recipe"
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="run folder (runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main())
