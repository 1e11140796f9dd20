"""``python -m training RECIPE.toml [--set a.b=c]... [--run FOLDER] [--start RUN] [--resume]``

Several processes share a job that torchrun starts: ``torchrun --nproc-per-node 2 -m training RECIPE.toml``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bundle.errors import VoisinError
from training.config import Recipe, RecipeError, encode_recipe, load_recipe
from training.corpus import Digest

if TYPE_CHECKING:
    from training.group import Group
    from training.language import LanguageTask
    from training.translation import TranslationTask


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what a recipe asks for. 0 done; 1 the job failed or was interrupted; 2 the recipe or its corpora
    are at fault, told in one line."""
    options = _parser().parse_args(arguments)
    try:
        recipe = load_recipe(options.recipe, options.set)
        kept = load_recipe(options.recipe, options.set, expand=False)
        if options.start:
            from training.start import begun

            kept = begun(kept, options.start)
        text = encode_recipe(kept)
    except VoisinError as error:
        return _fail(error, 2)
    # Tokenizers' own threads would fight with torch's for the same cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if recipe.train.threads == 1 else "true")
    from training.corpus import CorpusError
    from training.tokenizer import TokenizerError

    folder = options.run or Path("runs") / recipe.name
    try:
        train(recipe, text, folder, start=options.start, resume=options.resume)
    except (RecipeError, CorpusError, TokenizerError) as error:
        return _fail(error, 2)
    except VoisinError as error:
        return _fail(error, 1)
    except OSError as error:  # a full disk says so wherever it is written to
        return _fail(f"{error.filename or folder}: {error.strerror or error}", 1)
    return 0


def train(
    recipe: Recipe, text: str, folder: Path, *, start: Path | None = None, resume: bool = False
) -> None:
    """Runs one job into a run folder.

    There it leaves ``recipe.toml``, ``corpora.json``, ``tokenizer.json`` and perhaps ``words.txt``, then
    ``checkpoints/``, ``metrics.jsonl``, ``curves.png``, ``samples.txt`` and ``evaluation.json``; for vectors,
    what ``word2vec.fit`` writes. A network is trained by all processes that torchrun started, and process 0
    leaves what is left; one that torchrun started again resumes unasked.

    Args:
        text: the recipe as it is kept in the folder, without this machine's paths.
        start: the folder of a run whose weights and tokenizer this one begins with.
        resume: go on from the folder's last checkpoint; without one, begin.

    Raises:
        VoisinError: one of its kinds, naming the place.
    """
    from training.group import joined, restarted, world_size

    if recipe.kind == "vectors":
        if start:
            raise RecipeError(recipe.name, "--start is for networks; word vectors are trained anew")
        if world_size() > 1:
            raise RecipeError(
                recipe.name,
                f"gensim trains vectors in one process, and {world_size()} were started: start it without "
                "torchrun; vectors.workers says how many threads it has",
            )
        from training import word2vec

        _open(recipe, text, folder, resume)
        word2vec.fit(recipe, folder)
        return
    with joined(recipe.train.device) as group:
        asked = resume or restarted()
        resumed, digests = group.led(lambda: _open(recipe, text, folder, asked, start))
        if group.size > 1:
            _compare_nodes(recipe, digests, group)
        _network(recipe, text, folder, resumed, group, start)


def _open(
    recipe: Recipe, text: str, folder: Path, resume: bool, start: Path | None = None
) -> tuple[bool, list[str]]:
    """Makes the run folder ready. Whether there is a checkpoint to resume from, and the corpora's sha256."""
    from training import checkpoint
    from training.start import read_before, still_begun

    last = folder / checkpoint.CHECKPOINTS / checkpoint.LAST
    begun = last.exists()
    if resume and begun:
        _same(recipe, folder)
        start, text = still_begun(folder, text)
    elif not resume and (folder / checkpoint.CHECKPOINTS).exists():
        raise RecipeError(folder, "holds a run already: --resume goes on with it, --run names another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checkpoint.RECIPE).write_text(text, encoding="utf-8")
    corpora = _digests(recipe)
    if resume and begun:
        _same_text(corpora, folder)
    _write_json(folder / "corpora.json", read_before(start, corpora) if start else corpora)
    return resume and begun, [digest.sha256 for digest in corpora]


def _digests(recipe: Recipe) -> list[Digest]:
    from training import corpus

    names = recipe.augment.names if recipe.augment else []
    return corpus.digests([*recipe.corpus.sources, *names])


def _compare_nodes(recipe: Recipe, expected: list[str], group: Group) -> None:
    """Refuses to train on other texts on one machine than on another. What lies on the web is fetched here,
    once a machine."""
    looks = group.local_rank == 0 and not group.leads
    found = [digest.sha256 for digest in _digests(recipe)] if looks else expected
    if group.sum(float(found != expected)) != [0.0]:
        where = "here" if found != expected else "in another process"
        raise RecipeError(recipe.name, f"the corpora are not the text that process 0 reads ({where})")


def _network(recipe: Recipe, text: str, folder: Path, resume: bool, group: Group, start: Path | None) -> None:
    """A model that the loop trains."""
    import torch
    from tokenizers import Tokenizer as Backend

    from bundle.lexicon import LEXICON
    from bundle.tokenizer import Tokenizer
    from training.checkpoint import TOKENIZER
    from training.lexicon import make_lexicon
    from training.loop import Loop
    from training.models import count_parameters
    from training.prepare import make_task, make_tokenizer
    from training.start import copy_tokenizer, copy_weights, speaks

    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)

    def written() -> str:
        if start and not resume and speaks(recipe, start):
            copy_tokenizer(start, folder)
        elif not resume:
            make_tokenizer(recipe, folder / TOKENIZER)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        if recipe.lexicon and not resume and not (folder / LEXICON).exists():
            make_lexicon(recipe, tokenizer, folder / LEXICON)
        return tokenizer.to_json()

    tokenizer = Tokenizer(Backend.from_str(group.led(written)))
    task = make_task(recipe, tokenizer, group)
    if start and not resume:
        copy_weights(start, task.model, tokenizer)
    if group.leads:
        shared = f", {group.size} processes" if group.size > 1 else ""
        parameters = count_parameters([task.model])
        print(f"{recipe.name}: {parameters:,} parameters, {tokenizer.size:,} ids{shared}", file=sys.stderr)
    loop = Loop(task, recipe.train, folder, name=recipe.name, text=text, group=group)
    if resume:
        loop.resume()
    loop.run()
    # None leaves before the last thing is written: until then a failure is one that all are restarted for.
    group.led(lambda: _finish(recipe, folder, task))


def _finish(recipe: Recipe, folder: Path, task: LanguageTask | TranslationTask) -> None:
    """Scores and samples of the best weights."""
    from training.checkpoint import load_model

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
    rank = os.environ.get("RANK", "0")
    place = f" (process {rank})" if rank != "0" else ""
    print(f"voisin-train{place}: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="voisin-train", description="Train what a recipe asks for.")
    parser.add_argument("recipe", type=Path, help="a recipe, TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="override a key of the recipe"
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="run folder (runs/NAME)")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="RUN",
        help="begin with the weights of this run folder, and its tokenizer where the languages are the same",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


if __name__ == "__main__":
    status = main()
    if status == 0 and os.environ.get("WORLD_SIZE", "1") != "1":
        from training.group import leave

        leave()
    sys.exit(status)
