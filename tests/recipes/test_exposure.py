"""What says whether a model has seen a text: numbers worked out by hand, and a model in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.models import build
from transformers import PreTrainedTokenizerFast

from dynamics.corpus.sources import Document
from dynamics.corpus.tokenizer import train_tokenizer
from dynamics.errors import InputError
from recipes.study import exposure
from recipes.study.exposure import Losses, compared, difference, of_kind, paired, ratio, sections, set_numbers

T_2 = 4.302653  # 97.5 % of Student's t with 2 degrees of freedom, from a table


def losses(nats, sizes):
    ends = np.cumsum(sizes)
    return Losses(np.array(nats, dtype=float), ends - sizes, ends)


def test_a_ratio_and_its_interval():
    found = ratio(np.array([2.0, 6.0, 4.0]), np.array([1, 2, 3]))
    # 12 / 6; residuals 0, 2, -2: variance 4, so the error is sqrt(4 / 3) / 2.
    half = T_2 * np.sqrt(4 / 3) / 2
    assert found == pytest.approx({"estimate": 2, "low": 2 - half, "high": 2 + half}, abs=1e-5)


def test_a_mean_of_differences():
    half = T_2 * np.sqrt(3) / np.sqrt(3)
    expected = {"estimate": 0.0, "low": -half, "high": half, "documents": 3}
    assert paired(np.array([-np.sqrt(3), 0, np.sqrt(3)])) == pytest.approx(expected, abs=1e-5)
    assert paired(np.array([1.0])) is None


def test_a_set_in_nats_and_bits():
    found = set_numbers([losses([np.log(2)] * 4, [1, 1, 1, 1]), losses([2 * np.log(2)] * 2, [4, 4])])
    assert found["documents"] == 2 and found["tokens"] == 6
    assert found["nats_per_token"]["estimate"] == pytest.approx(8 * np.log(2) / 6, abs=1e-6)
    assert found["bits_per_byte"]["estimate"] == pytest.approx(8 / 12, abs=1e-6)


def test_a_difference_of_sets():
    one, other = ({"estimate": at, "low": at - T_2, "high": at + T_2} for at in (3.0, 1.0))
    # Errors of 1 each, 2 degrees each: together sqrt(2) with 4, whose 97.5 % of t is 2.776445.
    half = 2.776445 * np.sqrt(2)
    assert difference(one, other, (3, 3)) == pytest.approx({"estimate": 2, "low": 2 - half, "high": 2 + half}, abs=1e-5)


def test_tokens_belong_to_the_piece_of_their_first_letter():
    pieces = [("same", "a é"), ("given", "12"), ("same", " "), ("name", "Bo"), ("same", ".")]
    # Bytes: a | space é (2 bytes) | 1 | 2 | space Bo | .
    found = losses([1, 2, 3, 4, 5, 6], [1, 3, 1, 1, 3, 1])
    assert of_kind(found, pieces, "given").tolist() == [3, 4]
    assert of_kind(found, pieces, "name").tolist() == [5]
    assert of_kind(found, pieces, "same").tolist() == [1, 2, 6]


PROBLEM = ("Nina has 12 pens and {n} cups. How many things?", "She has 12 + {n} = <<12+{n}={all}>>{all}.\n#### {all}")
PAIRS = [tuple(text.format(n=n, all=12 + n) for text in PROBLEM) for n in (34, 45, 56, 67)]


def by_character(known):
    """A model to which each byte is a token, of 3 nats, or 1 where the text is known by heart."""

    def measure(texts):
        return [
            losses([1.0 if text in known else 3.0] * len(text.encode()), [1] * len(text.encode())) for text in texts
        ]

    return measure


def test_what_was_learned_by_heart_shows():
    template = ["Question: {}\nAnswer: {}".format(*pair) for pair in PAIRS]
    found = compared(PAIRS, by_character(set(template)), documents=3, seed=0)
    assert found["tried"] == 3
    for kind in ("all", "same", "given", "answered", "name"):
        assert found[kind] == {"estimate": -2.0, "low": -2.0, "high": -2.0, "documents": 3}
    blank = compared(PAIRS, by_character(set()), documents=4, seed=0)
    assert {blank[kind]["estimate"] for kind in ("all", "same", "given", "answered", "name")} == {0.0}


def test_too_few_problems():
    with pytest.raises(InputError, match="of 2 problems 0 can be perturbed; give more"):
        compared([("How many?", "None.")] * 2, by_character(set()), documents=3, seed=0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sat on the mat " * 9], vocab_size=270)


@pytest.mark.parametrize("longest", [256, 7])
def test_losses_are_the_models_own(monkeypatch, tokenizer, longest):
    monkeypatch.setattr(exposure, "LONGEST", longest)
    torch.manual_seed(0)
    model = build("llama", vocab_size=len(tokenizer)).eval()
    texts = ["the cat sat", "on the mat the cat sat on the mat", "cat é", "the mat sat on a cat"] * 3
    found = exposure.measuring(model, tokenizer)(texts)
    double = model.double()
    for text, one in zip(texts, found, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:longest]
        with torch.no_grad():
            logp = double(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [-float(logp[at, ids[at + 1]]) for at in range(len(ids) - 1)]
        assert one.nats == pytest.approx(expected, abs=1e-4)
        kept = text.encode()[one.byte_start[0] : one.byte_end[-1]].decode(errors="replace")
        assert kept == tokenizer.decode(ids[1:])


def test_sections_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nshort\n\n## One\n\n" + "x" * 300 + "\n\n## Two\n\n" + "y" * 300)
    found = sections([page])
    assert [doc.text[:3] for doc in found] == ["One", "Two"] and found[0].origin == "page.md: section 1"


def write_gsm8k(folder):
    folder.mkdir()
    for part in ("train", "test"):
        rows = [{"question": f"{question} ({part})", "answer": answer} for question, answer in PAIRS]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_command_writes_numbers_and_no_text(tmp_path, monkeypatch, capsys):
    folder = write_gsm8k(tmp_path / "gsm8k")
    parts = {
        name: [Document(f"text {at} of {name}", "x") for at in range(5)]
        for pair in exposure.TOLD_APART
        for name in pair
    }
    monkeypatch.setattr(exposure, "study_texts", lambda path: parts)
    monkeypatch.setattr(exposure, "measured_by_the_model", lambda: (by_character(set()), {"name": "it"}))
    output = tmp_path / "new" / "exposure.json"
    assert exposure.main(["--gsm8k", str(folder), "--documents", "3", "--problems", "4", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["model"] == {"name": "it"} and found["design"]["documents"] == 3
    assert set(found["sets"]) == set(parts) and len(found["differences"]) == len(exposure.TOLD_APART)
    assert found["perturbed"]["mathematics: test"]["all"]["documents"] == 4
    assert "Nina" not in output.read_text()
    assert exposure.main(["--gsm8k", str(folder), "--documents", "1"]) == 2
    assert exposure.main(["--gsm8k", str(tmp_path / "no")]) == 2
    assert "Error: " in capsys.readouterr().err


def test_the_studies_own_documents(tmp_path):
    found = exposure.recipe_documents(exposure.RECIPES["python-reference"], ())
    assert set(found) == {"train", "validation", "validation-general"} and len(found["validation-general"]) == 16
    assert 0 < len(found["train"]) < 112 - len(found["validation"])  # the rest is for tuning
