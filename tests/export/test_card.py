"""The card says what the manifest and the scores say, in a table that Markdown can read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bundle.manifest import (
    Check,
    Corpus,
    Decoding,
    FileRecord,
    Golden,
    Limits,
    Manifest,
    Provenance,
    Special,
)
from export import pack
from export.card import Speed, card, score_table, write_card
from export.markdown import cell
from export.scores import Anchor, Score

RECIPE = """
kind = "translator"
name = "fr-en"
languages = ["fr", "en"]
caveats = ["Legal French is beyond it."]

[corpus]

[[corpus.sources]]
path = "x.tsv"
name = "Tatoeba"
licence = "CC BY 2.0"
attribution = "tatoeba.org"
columns = ["en", "fr"]

[model]
architecture = "transformer"
layers = 3
decoder_layers = 2
hidden = 256
heads = 4
"""


def manifest(**changes: object) -> Manifest:
    made = Manifest(
        kind="translator",
        name="fr-en",
        level="bpe",
        languages=["fr", "en"],
        special=Special(pad=0, bos=1, eos=2, unk=3),
        limits=Limits(prompt_tokens=100, new_tokens=150),
        decoding=Decoding(beam=4),
        precision="int8",
        files={"decoder.onnx": FileRecord(sha256="0", size=5_200_000)},
        revision="0123456789ab",
        provenance=Provenance(
            commit="f00dfeedcafe0000",
            recipe=RECIPE,
            corpora=[Corpus(name="Tatoeba", licence="CC BY 2.0", attribution="tatoeba.org", sha256="0")],
            libraries={},
            opset=21,
            parameters=5_000_000,
            created="2025-11-23T10:00:00Z",
        ),
        parity={"full_vs_torch": Check(bound=1e-4, observed=2.5e-6)},
        golden=[Golden(input=["Où est la gare ?"], output=["Where is the station?"], scores=[-1.0])],
    )
    return msgspec.structs.replace(made, **changes)


def score(**changes: object) -> Score:
    made = Score(
        metric="BLEU",
        value=31.4159,
        set="held-out 1.00% of Tatoeba",
        size=1000,
        unit="sentences",
        command="eval x",
    )
    return msgspec.structs.replace(made, **changes)


def test_the_card_says_what_matters() -> None:
    text = card(manifest(), {})
    for fact in (
        "# fr-en",
        "Translates French into English",
        "| architecture | Transformer, 3+2 layers of 256, 4 heads |",
        "| parameters | 5,000,000 |",
        "8-bit integers",
        "| size | 5.2 MB |",
        "`0123456789ab`",
        "from commit f00dfeedcafe",
        "**Tatoeba**: tatoeba.org. Licence: CC BY 2.0.",
        "- Legal French is beyond it.",
        "Each sentence is translated alone",
        "| French | English |",
        "| Où est la gare ? | Where is the station? |",
        "| 0.0001 | 2.5e-06 |",
        "Not yet measured",
    ):
        assert fact in text, fact
    assert "speed" not in text


def test_the_recipe_may_say_it_better() -> None:
    recipe = 'description = "Everyday French into English."\n' + RECIPE
    provenance = msgspec.structs.replace(manifest().provenance, recipe=recipe)
    text = card(manifest(provenance=provenance), {})
    assert "\n\nEveryday French into English.\n\n" in text
    assert "Translates French" not in text


def test_scores_stand_beside_others_with_their_set_size_and_command() -> None:
    anchor = Anchor(value=57.5, system="opus-mt-fr-en", source="its card", note="other sentences")
    text = score_table(
        [
            score(
                floor=3.5, floor_is="the source itself", signature="nrefs:1|v:2.5", note="greedy", part="bleu"
            ),
            score(metric="chrF", value=52.0, anchors=[anchor], unseen=True, part="bleu"),
        ]
    )
    assert (
        "| BLEU | 31.42 | 3.5 (the source itself) | held-out 1.00% of Tatoeba, 1,000 sentences; greedy |"
        in text
    )
    assert "| chrF | 52 | 57.5 (opus-mt-fr-en) | held-out 1.00% of Tatoeba (not trained on), 1,000" in text
    assert "- opus-mt-fr-en: its card (other sentences)." in text
    assert "- **BLEU**: how many runs of one to four words" in text
    assert text.count("`eval x`") == 1
    assert "sacrebleu: `nrefs:1|v:2.5`." in text


def test_the_ngrams_stand_beside_the_model_of_the_same_text() -> None:
    bits = score(metric="bits per character", value=1.5, set="a text", unit="lines")
    text = score_table(
        [
            msgspec.structs.replace(bits, part="perplexity", floor=3.1, floor_is="xz -9"),
            msgspec.structs.replace(bits, part="ngram", value=1.9, note="8-grams"),
            msgspec.structs.replace(bits, part="ngram", value=1.7, note="8-grams", set="another text"),
        ]
    )
    assert "| bits per character | 1.5 | 3.1 (xz -9); 1.9 (8-grams) | a text, 1,000 lines |" in text
    assert "1.7" not in text


def test_what_rounding_costs() -> None:
    text = score_table(
        [
            score(part="bleu"),
            score(part="rounding", value=31.4, exact=31.65),
            score(part="rounding", metric="perplexity per token", value=20.2, exact=20.0),
        ]
    )
    assert "| BLEU | held-out 1.00% of Tatoeba, 1,000 sentences | 31.65 | 31.4 | +0.25 |" in text
    assert (
        "| perplexity per token | held-out 1.00% of Tatoeba, 1,000 sentences | 20 | 20.2 | +1.00 % |" in text
    )


def test_sections_of_the_analogies_are_left_to_the_results_page() -> None:
    questions = score(
        metric="analogies right, %", set="questions-words", unit="questions", part="analogies", coverage=0.5
    )
    shown = [
        msgspec.structs.replace(questions, set=f"questions-words{rest}")
        for rest in ("", ": semantic", ": capital-world")
    ]
    text = score_table(shown)
    assert "| questions-words, 1,000 questions; 50.0 % known |" in text
    assert "questions-words: semantic" in text
    assert "capital-world" not in text


def test_writing_reads_the_scores_beside_it(tmp_path: Path) -> None:
    speed = Speed(milliseconds=0.4321, per="a token", machine="A Processor")
    pack.write_scores(
        tmp_path, {"speed": msgspec.to_builtins(speed), "scores": [msgspec.to_builtins(score())]}
    )
    write_card(tmp_path, manifest())
    text = (tmp_path / "CARD.md").read_text()
    assert "| speed | 0.43 ms a token, one thread of A Processor |" in text
    assert "| BLEU | 31.42 |" in text
    assert "Not yet measured" not in text


@pytest.mark.parametrize(
    ("text", "kept"), [("a|b", r"a\|b"), ("a\nb", "a b"), (r"\|", r"\\\|"), ("  a ", "a"), ("<eos>", "<eos>")]
)
def test_cells_hold_anything(text: str, kept: str) -> None:
    assert cell(text) == kept


@pytest.mark.parametrize("kind", ["vectors", "language"])
def test_other_kinds_have_cards_too(kind: str) -> None:
    model = (
        '[model]\narchitecture = "gru"\nlayers = 2\nhidden = 32\n'
        if kind == "language"
        else "[vectors]\n[tokenizer]\nlevel='word'"
    )
    recipe = RECIPE.split("[model]")[0].replace("translator", kind).replace('["fr", "en"]', '["fr"]') + model
    provenance = msgspec.structs.replace(manifest().provenance, recipe=recipe)
    made = manifest(kind=kind, languages=["fr"], provenance=provenance, level="word")
    text = card(made, {})
    if kind == "language":
        assert "Continues French text, word by word." in text
        assert "GRU, 2 layers of 32 |" in text
        assert "| after | it writes |" in text
    else:
        assert "Nearest words and analogies in French." in text
        assert "Word2Vec, skip-gram, 5 negative samples, 100 dimensions, window 5" in text
        assert "| word | nearest |" in text


def test_both_forms_tell_their_checks_apart() -> None:
    parity = {
        name: Check(bound=1.0, observed=observed)
        for name, observed in (
            ("row_vs_batch", 0.1),
            ("fast_row_vs_batch", 0.2),
            ("fast_fp32_row_vs_batch", 0.3),
            ("fast_fp32_rounding", 0.0),
        )
    }
    text = card(manifest(form="both", parity=parity), {})
    assert "| graphs | one set laid out for onnxruntime on CPUs, one of" in text
    rows = [line for line in text.splitlines() if line.endswith(("0.1 |", "0.2 |", "0.3 |", "| 0 |"))]
    assert rows == [
        "| logits: a row alone against the same row in a batch, largest difference | 1 | 0.1 |",
        "| fast graphs, before rounding, logits: a row alone against the same row in a batch, "
        "largest difference | 1 | 0.3 |",
        "| fast graphs, texts whose logits differ alone and in a batch, number | 1 | 0.2 |",
    ]
