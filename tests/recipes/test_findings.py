"""What docs/findings.md states is what the studies in this repository give."""

from __future__ import annotations

import pytest

from recipes.study import findings

NUMBERS = {
    "one": {
        "arm": {"base-line": {"rebound": {"is": 0.25, "low": 0.125, "high": 0.5}, "start": 2.0, "share": 0.125}},
        "compare": {"a final b (early stopping)": {"is": -0.0625, "low": -0.1, "high": 0.03, "p": 0.034}},
        "documents": 1200,
    }
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("starts at {{one/arm/base-line/start}}", "starts at 2.000"),
        ("{{one/arm/base-line/rebound|range}} nats", "0.250 (0.125 to 0.500) nats"),
        ("{{one/compare/a final b (early stopping)|difference}}", "-0.062 (-0.100 to +0.030, p = 0.03)"),
        ("{{one/arm/base-line/share|percent}}, {{one/documents|count}}", "12.5 %, 1,200"),
        ("no field: {} {one}", "no field: {} {one}"),
    ],
)
def test_fields_are_filled_in(text: str, wanted: str) -> None:
    assert findings.written(text, NUMBERS) == wanted


def test_a_p_value_is_written_with_its_sign() -> None:
    assert [findings.p_value(p) for p in (0.0004, 0.004, 0.049, 0.39, 1.0)] == [
        "< 0.001",
        "= 0.004",
        "= 0.05",
        "= 0.39",
        "= 1.00",
    ]


@pytest.mark.parametrize("text", ["{{one/arm/baseline/start}}", "{{one/arm/base-line/start/more}}", "{{two}}"])
def test_what_is_not_there_is_named(text: str) -> None:
    with pytest.raises(KeyError, match="there is"):
        findings.written(text, NUMBERS)
    with pytest.raises(ValueError, match="unknown form 'loud'"):
        findings.written("{{one/documents|loud}}", NUMBERS)


def test_the_page_states_what_the_studies_give() -> None:
    assert findings.page() == findings.PAGE.read_text(), "python -m recipes.study.findings writes it anew"
