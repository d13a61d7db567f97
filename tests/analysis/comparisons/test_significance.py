from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamics.analysis.comparisons.significance import benjamini_hochberg, holm
from dynamics.errors import InputError


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.5.
    np.testing.assert_allclose(holm([0.03, 0.5, 0.01, 0.02]), [0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.9, 0.8]).tolist() == [1.0, 1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]


def test_benjamini_and_hochberg_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4/1, 4/2, 4/3, 4/4 is 0.04, 0.04, 0.04, 0.5.
    np.testing.assert_allclose(benjamini_hochberg([0.03, 0.5, 0.01, 0.02]), [0.04, 0.5, 0.04, 0.04])


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_what_is_no_p_value_is_refused(adjust: Any) -> None:
    for bad in ([], [1.5], [-0.1, float("nan")]):
        with pytest.raises(InputError, match="not p-values"):
            adjust(bad)
