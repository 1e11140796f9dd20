"""Sentences and prompts without end, no two alike: what a cache has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

_FRENCH = (
    ("Mon frère", "La voisine", "Le médecin", "Ma tante", "Le vieux roi", "Notre professeur", "Un enfant",
     "Le chien", "La reine", "Mon ami", "Le facteur", "Cette femme"),
    ("a perdu", "regarde", "voulait acheter", "a oublié", "a trouvé", "cherche", "aimerait voir",
     "n'a pas vu", "a laissé", "connaît bien", "a peint", "vendra"),
    ("la petite maison", "le livre rouge", "une vieille voiture", "les clés", "un bateau", "la lettre",
     "deux tableaux", "le jardin", "la montre", "un chapeau", "le pont", "une chaise"),
    ("hier soir", "près de la gare", "dans la forêt", "avec sa mère", "au bord de la mer", "pour son père",
     "avant le dîner", "à la fin de l'été", "sous la pluie", "sans rien dire", "ce matin", "chez lui"),
)  # fmt: skip
_ENGLISH = (
    ("The old king", "My brother", "A doctor", "The river", "Her father", "The teacher", "That house",
     "The train", "A young man", "The army", "Our garden", "The queen"),
    ("was seen", "had been", "stood", "came back", "went down", "began", "was lost", "would stay", "slept",
     "was found", "could be heard", "used to live"),
    ("near the bridge", "in the north", "at the station", "by the sea", "after the war", "in the morning",
     "on the road", "behind the church", "for two years", "among friends", "with his dog", "without a word"),
    ("and then", "because", "when the", "while she", "but the", "so that", "until", "and so", "before he",
     "as if", "where the", "although"),
)  # fmt: skip


def french(count: int, *, seed: int = 0) -> list[str]:
    """Sentences of about nine words; different seeds give the same ones in another order."""
    return [f"{' '.join(parts)}." for parts in _draw(_FRENCH, count, seed)]


def english(count: int, *, seed: int = 0) -> list[str]:
    """Prompts of about eight words."""
    return [" ".join(parts) for parts in _draw(_ENGLISH, count, seed)]


def _draw(columns: Sequence[Sequence[str]], count: int, seed: int) -> list[tuple[str, ...]]:
    found = list(product(*columns))
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[place] for place in order[:count]]
