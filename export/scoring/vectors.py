"""How word vectors agree with people, and what analogies they solve."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bundle.vectors import Vectors
from export.scores import Score, anchored
from training import similarity
from training.similarity import Section, Space

NAMES = {"wordsim353": "WordSim-353", "simlex999": "SimLex-999"}
QUESTIONS = "questions-words"
OURS = "our own French pairs"


def space_of(model: Vectors) -> Space:
    """The vectors as the graph holds them."""
    words = [word for word in model.tokenizer.words() if word in model]
    return Space(words, model.embed(words))


def similarity_scores(space: Space, languages: Sequence[str], *, command: str) -> list[Score]:
    """Spearman's rho with human judgements. There are public sets for English alone."""
    scores = []
    for key, file in similarity.PAIRS.items() if list(languages) == ["en"] else ():
        found = similarity.agreement(space, similarity.evaluation_file(file))
        score = Score(
            metric="Spearman's rho",
            value=found.spearman,
            set=NAMES[key],
            size=found.known,
            unit=f"of {found.pairs} pairs, both words known",
            command=command,
            part="similarity",
            coverage=found.known / found.pairs,
        )
        scores += anchored([score], key, languages)
    return scores


def analogy_scores(space: Space, languages: Sequence[str], *, command: str) -> list[Score]:
    """Analogies answered: of all, of each half, and by section; unknown words make a wrong answer.

    English has a public set. French has a small one of our own; other languages have none.
    """
    if list(languages) not in (["en"], ["fr"]):
        return []
    english = list(languages) == ["en"]
    name = QUESTIONS if english else OURS
    file = similarity.evaluation_file(similarity.QUESTIONS) if english else similarity.FRENCH
    sections = similarity.analogies(space, file)
    syntactic = [section for section in sections if section.name.startswith("gram")]
    semantic = [section for section in sections if not section.name.startswith("gram")]
    groups = [(name, sections), (f"{name}: semantic", semantic), (f"{name}: syntactic", syntactic)]
    groups += [(f"{name}: {section.name}", [section]) for section in sections]
    make = partial(
        Score,
        metric="analogies right, %",
        unit="questions, an unknown word is a wrong answer",
        command=command,
        part="analogies",
    )
    return [
        score
        for group, chosen in groups
        if chosen
        for score in anchored([_score(make, group, chosen)], group, languages)
    ]


def _score(make: partial[Score], name: str, sections: Sequence[Section]) -> Score:
    asked, known, correct = (
        sum(getattr(section, field) for section in sections) for field in ("questions", "known", "correct")
    )
    return make(
        value=100.0 * correct / asked,
        set=name,
        size=asked,
        coverage=known / asked,
        note=f"{known:,} with known words, {100.0 * correct / max(1, known):.1f} % of them right",
    )
