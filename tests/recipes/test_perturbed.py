"""Problems with other numbers and names: right again, and the same but for these."""

from __future__ import annotations

import re

import pytest

from recipes.study.perturbed import perturbed

QUESTION = "Nina bakes 12 trays of 8 rolls. She sells 30 rolls to Greg for $1 each. How many rolls are left?"
ANSWER = "Nina bakes 12 x 8 = <<12*8=96>>96 rolls.\nSo 96 - 30 = <<96-30=66>>66 rolls are left.\n#### 66"  # invented


def texts(found):
    return tuple("".join(getattr(piece, side) for part in found for piece in part) for side in ("before", "after"))


@pytest.mark.parametrize("seed", range(8))
def test_the_arithmetic_is_right_again(seed):
    found = perturbed(QUESTION, ANSWER, seed=seed)
    before, after = texts(found)
    assert before == QUESTION + ANSWER and after != before
    trays, rolls, sold, one = map(int, re.findall(r"\d+", "".join(piece.after for piece in found[0])))
    made, left = trays * rolls, trays * rolls - sold
    assert (one, sold % 10) == (1, 0) and trays != 12 and rolls != 8 and sold != 30
    assert "".join(piece.after for piece in found[1]).split(" bakes", 1)[1] == (
        f" {trays} x {rolls} = <<{trays}*{rolls}={made}>>{made} rolls.\nSo {made} - {sold} = "
        f"<<{made}-{sold}={left}>>{left} rolls are left.\n#### {left}"
    )
    assert len(re.sub(r"\D", "", after)) == len(re.sub(r"\D", "", before))
    # Names are others, the same wherever they stand, and nothing else is.
    assert "Nina" not in after and "Greg" not in after
    assert len({piece.after for part in found for piece in part if piece.before == "Nina"}) == 1
    assert all(piece.before == piece.after for part in found for piece in part if piece.kind == "same")
    assert {piece.kind for piece in found[0]} == {"same", "given", "name"}
    assert {piece.kind for piece in found[1]} == {"same", "answered", "name"}


def test_the_seed_decides():
    assert perturbed(QUESTION, ANSWER, seed=1) == perturbed(QUESTION, ANSWER, seed=1)
    assert len({texts(perturbed(QUESTION, ANSWER, seed=seed))[1] for seed in range(6)}) > 3


def test_thousands_keep_their_commas():
    question = "A farm sells 2,000 eggs in May and 3,400 in June. How many is that?"
    answer = "2,000 + 3,400 = <<2000+3400=5400>>5,400 eggs\n#### 5,400"
    _, after = texts(perturbed(question, answer, seed=3))
    may, june = (int(written.replace(",", "")) for written in re.findall(r"\d,\d{3}", after)[:2])
    assert (may % 1000, june % 100) == (0, 0)
    assert after.endswith(f"<<{may}+{june}={may + june}>>{may + june:,} eggs\n#### {may + june:,}")


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("Ida has 7 cats and 5 dogs.", "<<7+5=13>>13\n#### 13", "the sum is wrong"),
        ("Ida has 7 cats and 5 dogs.", "7 + 5 = 12\n#### 12", "no annotation"),
        ("Ida has 7 cats, 5 dogs.", "7+5=<<7+5=12>>12, and 12 + 7 = 19\n#### 19", "a sum that isn't annotated"),
        ("Ida has 7 cats and 5 dogs.", "<<7+5=12>>12 and 41 birds\n#### 12", "a number from nowhere"),
        ("Ida has 2 cats and two dogs.", "<<2+2=4>>4\n#### 4", "said in words too"),
        ("Ida has 7 cats and 1.5 dogs.", "<<7+5=12>>12\n#### 12", "decimals"),
        ("Ida gives 50% of 8 cats.", "<<8*50/100=4>>4\n#### 4", "a share"),
        ("Ida has 8 cats, gives half.", "<<8*.5=4>>4\n#### 4", "a decimal in a sum"),
        ("Ida has 7 cats, 5 dogs.", "<<7+5=12>>12", "no result"),
        ("Ida has cats.", "<<7+5=12>>12\n#### 12", "no number given"),
        ("Ida has 1 cat.", "<<1+1=2>>2\n#### 2", "none that may change"),
        ("Ida has 3 cats and 4 dogs.", "<<7-3=4>>4 and <<4+3=7>>7\n#### 9", "a result that no sum has"),
        ("Ida has 8 cats.", "<<8/0=4>>4\n#### 4", "no sum at all"),
        ("Ida has 8 cats.", "<<2**3=8>>8\n#### 8", "a power"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_out(question, answer, why):
    assert all(perturbed(question, answer, seed=seed) is None for seed in range(3)), why


def test_only_whole_results_are_drawn():
    question = "Zed shares 24 nuts among 6 mice. How many has each?"
    for seed in range(10):
        found = perturbed(question, "<<24/6=4>>4 nuts\n#### 4", seed=seed)
        nuts, mice = map(int, re.findall(r"\d+", "".join(piece.after for piece in found[0])))
        assert nuts % mice == 0 and 1 <= nuts // mice <= 9
        assert "".join(piece.after for piece in found[1]).endswith(f"#### {nuts // mice}")


def test_long_numbers_take_no_time():
    question = "A has 123456789 and B has 987654321."
    assert perturbed(question, "<<987654321-123456789=864197532>>864197532\n#### 864197532", seed=0) is not None
