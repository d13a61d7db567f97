from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.verdict import Verdict, method_of, verdict
from dynamics.analysis.sums.arms import collect_arms
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_study

Array = np.ndarray[Any, Any]


def shifted(by: float, own: int, *, broken: bool = False) -> Any:
    """A curve that ends `by` nats above 3, with noise of the arm's own."""

    def curve(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        noise = rng.normal(0, 0.2, (own + 1, *entropy.shape))[own]
        return np.asarray((math.nan if broken and epoch == 3 else 3.0 + by * epoch / 3) + noise)

    return curve


def dropout(name: str, ratio: float = 0.2) -> dict[str, Any]:
    return {"regularizers": [{"name": name, "ratio": ratio, "schedule": "constant"}]}


def study_of(path: Path, ends: dict[str, tuple[dict[str, Any], float]], **how: Any) -> Study:
    arms = {name: settings for name, (settings, _) in ends.items()}
    broken = how.pop("broken", ())
    curves = {name: shifted(by, i, broken=name in broken) for i, (name, (_, by)) in enumerate(ends.items())}
    how = {"n_documents": 60, "epochs": 3, "seeds": (0, 1, 2)} | how
    return open_study(make_study(path / "study", arms=arms, loss_fns=curves, **how))


def findings(found: Verdict) -> dict[tuple[str, str], Any]:
    return {(each.comparison.other, each.comparison.quantity): each for each in found.findings}


def test_a_lower_loss_than_random_dropout_is_told(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        {
            "baseline": ({}, 1.0),
            "entrodrop": (dropout("entrodrop"), 0.0),
            "random": (dropout("random_token_dropout"), 0.6),
        },
    )
    found = verdict(study)
    assert found.arm == "entrodrop"
    by = findings(found)
    assert {key: each.outcome for key, each in by.items() if key[1] == "final"} == {
        ("random", "final"): "lower",
        ("baseline", "final"): "lower",
        ("baseline (early stopping)", "final"): "not distinguishable",
    }
    assert by["random", "final"].comparison.estimate == pytest.approx(-0.6, abs=0.05)
    assert by["random", "final"].same_share and by["baseline", "final"].same_share is None
    assert [each.control for each in found.findings[:3]] == ["random dropout", "random dropout", "baseline"]
    assert found.conclusion == "entrodrop ends at a lower loss than random dropout at the same share (random)."
    text = repr(found)
    assert "entrodrop against random at the end of training, same share dropped: LOWER (-0." in text
    assert "over seeds and documents" in text

    # The numbers are those of the study's one family, p-values included.
    family = {(row.arm, row.other, row.quantity): row for row in study_comparisons(study)}
    row = family["random", "entrodrop", "final"] if ("random", "entrodrop", "final") in family else None
    row = row.turned() if row else family["entrodrop", "random", "final"]
    ours = by["random", "final"].comparison
    assert (ours.estimate, ours.low, ours.high, ours.p_holm) == (row.estimate, row.low, row.high, row.p_holm)


def test_the_other_way_round_and_a_named_arm(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        {"baseline": ({}, 0.0), "drop": (dropout("entrodrop"), 0.7), "any": (dropout("random_token_dropout"), 0.1)},
    )
    assert verdict(study).conclusion == "drop ends at a HIGHER loss than random dropout at the same share (any)."
    other = verdict(study, "any")
    assert other.arm == "any" and "does not choose tokens by entropy" in other.conclusion
    assert findings(other)["drop", "final"].outcome == "lower"
    assert findings(other)["drop", "final"].control == "another arm"


def test_another_share_is_no_fair_control(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        {
            "baseline": ({}, 1.0),
            "entrodrop": (dropout("entrodrop", 0.2), 0.0),
            "random": (dropout("random_token_dropout", 0.4), 0.6),
        },
    )
    found = verdict(study)
    assert findings(found)["random", "final"].same_share is False
    assert "ANOTHER share dropped" in repr(found)
    assert found.conclusion.startswith("No arm drops random tokens at the same share")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_diverged_control_is_unknown(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        {
            "baseline": ({}, 1.0),
            "entrodrop": (dropout("entrodrop"), 0.0),
            "random": (dropout("random_token_dropout"), 0.6),
        },
        broken=("random",),
    )
    found = verdict(study)
    assert findings(found)["random", "final"].outcome == "unknown"
    assert "cannot be compared" in found.conclusion
    assert "unknown, since a loss is not finite" in repr(found)


def test_html_escapes_names_and_says_the_same(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"baseline": ({}, 1.0), "a<b>": (dropout("entrodrop"), 0.0)})
    page = verdict(study)._repr_html_()
    assert "a&lt;b&gt; against baseline at the end of training: LOWER" in page and "<b>a<b>" not in page


def test_who_is_judged(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"baseline": (dropout("entrodrop"), 0.0), "plain": ({}, 0.0)})
    assert verdict(study).arm == "plain"  # the baseline is never judged against itself
    assert [method_of(arm) for arm in collect_arms(study)] == ["entrodrop", None]
    with pytest.raises(InputError, match="no arm 'plan' to judge.*did you mean 'plain'"):
        verdict(study, "plan")
    with pytest.raises(InputError, match="there is one alone"):
        verdict(collect_arms(study)[:1])
