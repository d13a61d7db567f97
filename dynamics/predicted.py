"""Which tokens have a prediction of their own: the one rule that the corpus counts by and the records are read by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def predicted_mask(document_id: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which tokens have a prediction of their own.

    A token is predicted when the position before it, in the same sequence, belongs to the same
    document. Position 0, a document's first token and padding are therefore not.

    Parameters
    ----------
    document_id
        (..., position) integers, -1 at padding.

    Returns
    -------
    numpy.ndarray
        (..., position) bool.
    """
    document_id = np.asarray(document_id)
    predicted = np.zeros(document_id.shape, dtype=bool)
    here = document_id[..., 1:]
    predicted[..., 1:] = (here == document_id[..., :-1]) & (here >= 0)
    return predicted
