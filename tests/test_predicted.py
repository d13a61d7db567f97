from __future__ import annotations

import numpy as np

from dynamics.predicted import predicted_mask


def test_predicted_mask_by_hand() -> None:
    document_id = np.array(
        [
            [0, 0, 0, 1, 1],  # a document starts in the middle
            [1, 2, 3, 3, -1],  # documents of one token here; padding
            [4, -1, -1, -1, -1],
        ]
    )
    expected = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(predicted_mask(document_id), expected)


def test_a_document_that_goes_on_in_the_next_sequence_has_no_prediction_at_its_start() -> None:
    assert predicted_mask(np.array([[7, 7], [7, 7]])).tolist() == [[False, True]] * 2
