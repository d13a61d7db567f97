"""Every number that README and the example's page give of the packaged study is computed here from it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support.prose import prose

from dynamics import load_example
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.power import detectable_difference, pilot_design
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.summary import arm_summary
from dynamics.analysis.sums.arms import collect_arms

README = prose("README.md")
NAMES = {"baseline": "the baseline", "entrodrop": "EntroDrop", "random": "random dropout"}


@pytest.fixture(scope="module")
def study() -> Any:
    return load_example()


@pytest.fixture(scope="module")
def arms(study: Any) -> Any:
    return collect_arms(study)


@pytest.fixture(scope="module")
def summaries(arms: Any) -> Any:
    return {row.arm: row for row in arm_summary(arms)}


@pytest.fixture(scope="module")
def family(arms: Any) -> Any:
    return {(row.quantity, row.arm, row.other): row for row in study_comparisons(arms)}


def with_p(row: Any, sign: int = 1) -> str:
    """A difference as README writes it, or the same the other way round."""
    ends = sorted(sign * end for end in (row.low, row.high))
    p = f"p < {0.001}" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}"
    return f"{sign * row.estimate:.3f} nats ({ends[0]:.3f} to {ends[1]:.3f}, {p})"
