"""Where sentences end: abbreviations of French and English, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.sentences import split_text

FRENCH = """
M. Dupont est là. | Mme Durand aussi.
Le Dr. Martin arrive à 15 h. | Il repart demain.
Voir p. 12 et art. 3 du code. | Cf. l'annexe.
Il est né le 3 janv. 1980 à Paris. | Sa sœur vit à Lyon.
« Bonjour. » | Il part.
Il a dit : « Non ! » | Puis il est parti.
J.-P. Sartre écrivait beaucoup. | On le lit encore.
Le taux est de 3.5 % env. dans ce cas. | C'est peu.
La société Dupont S.A. a fermé. | Tout le monde est triste.
Ouvrez www.exemple.fr puis cliquez. | Voilà !
MM. Petit et Grand sont venus. | Ils ont mangé.
C'est le no. 5 de la liste. | Prenez-le.
Il habite 3 bd. Voltaire. | C'est loin.
Mgr. Lefort a parlé. | Nous avons écouté.
Vers 200 av. J.-C., Rome était puissante. | Elle grandissait.
Qui est-ce ?! | Personne.
"""
ENGLISH = """
Mr. Smith met J. Verne. | They talked.
Dr. Brown lives in Washington D.C. with her cat. | She is happy.
It costs 3.50 euros. | 2 are left.
He said "Stop." | Then he left.
See e.g. this one, i.e. the first. | It works.
The U.S. Army arrived at 5 p.m. on Friday. | Nobody spoke.
I bought apples, pears, etc. | Then I went home.
See Fig. 3 and vol. 2, pp. 10-12. | It is there.
Prof. Jones vs. Lt. Col. Adams was a long case. | It ended in May.
Apple Inc. and Foo Ltd. merged. | Prices rose.
He was born on Jan. 5, 1980. | He lives in St. Louis.
J. R. R. Tolkien wrote it. | I read it.
Version 2.0.1 is out. | Update now.
Write to me@example.org. | I will answer.
Gen. Lee and Sen. Warren spoke. | People listened.
Mt. Everest is high. | No. 5 is alive.
He said no. | Then he left.
"""
LINES = [
    (language, line)
    for language, text in (("fr", FRENCH), ("en", ENGLISH))
    for line in text.strip().splitlines()
]


@pytest.mark.parametrize(("language", "line"), LINES)
def test_sentences(language: str, line: str) -> None:
    sentences = line.split(" | ")
    found = [part for is_sentence, part in split_text(" ".join(sentences), language) if is_sentence]
    assert found == sentences


@pytest.mark.parametrize("language", ["en", "fr", "xx", "", "pt-BR"])
@given(text=st.text(alphabet="aA.!? \n\r\t\u2028«»\"'()é…M5😀", max_size=60))
def test_nothing_is_lost_in_any_language(language: str, text: str) -> None:
    parts = split_text(text, language)
    assert "".join(part for _, part in parts) == text
    for is_sentence, part in parts:
        assert bool(part.strip()) == is_sentence
        assert not is_sentence or (part == part.strip() and len(part.splitlines()) == 1)


def test_a_text_of_any_length_is_cut() -> None:
    for text in ("Il pleut. " * 3000, "a" * 9000, ".!?«»" * 1500):
        assert "".join(part for _, part in split_text(text, "fr")) == text
