from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.hand_made import sums_of

from dynamics.analysis.intervals.bands import curve_interval, gap_interval
from dynamics.analysis.intervals.selection import best_contributions
from dynamics.analysis.sums.document_sums import average_sums, require_same_passes
from dynamics.analysis.sums.epochs import epochs_at
from dynamics.errors import InputError

WHOLE = replace(sums_of(np.ones((4, 60, 1)), np.ones((60, 1))), source="runs/whole")
CUT = replace(WHOLE, passes=np.array([0.0, 1.0, 2.0, 2.4]), source="runs/cut")
REFUSED = (
    r"epoch 3 stands for {} passes over the data in runs/{} and for {} in runs/{}, .* \(.*at_common_epochs\), or train"
)


def test_an_epoch_lies_at_its_passes() -> None:
    assert WHOLE.at.tolist() == [0.0, 1.0, 2.0, 3.0] and not WHOLE.cut
    assert CUT.at.tolist() == [0.0, 1.0, 2.0, 2.4] and CUT.cut
    assert epochs_at(WHOLE.epochs, None).dtype == np.float64
    with pytest.raises(AssertionError):
        epochs_at(WHOLE.epochs, np.array([1.0]))


def test_statistics_of_two_sides_refuse_an_epoch_after_other_passes() -> None:
    require_same_passes(WHOLE, replace(WHOLE, passes=np.arange(4.0)))
    require_same_passes(CUT, CUT)
    forward, backward = REFUSED.format("2.4", "cut", "3", "whole"), REFUSED.format("3", "whole", "2.4", "cut")
    with pytest.raises(InputError, match=forward):
        gap_interval([CUT], [WHOLE])
    with pytest.raises(InputError, match=backward):
        gap_interval([WHOLE] * 3, [CUT] * 3)
    for over in ("documents", "seeds_and_documents"):
        with pytest.raises(InputError, match=backward):
            curve_interval([WHOLE, WHOLE, CUT], over=over)
    with pytest.raises(InputError, match=backward):
        best_contributions([WHOLE, WHOLE, CUT])
    with pytest.raises(InputError, match=backward):
        average_sums([WHOLE, WHOLE, CUT])
    mean = average_sums([CUT, CUT])
    assert mean.at.tolist() == CUT.at.tolist() and mean.source == "runs/cut"
    assert gap_interval([CUT], [CUT]).estimate.tolist() == [[0.0]] * 4
