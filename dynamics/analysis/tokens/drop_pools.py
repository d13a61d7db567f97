"""Which tokens token dropout may take, as the recipe says it: known beforehand, or another set in every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.display.results import Shown
from dynamics.records.values import Records, WholeSplit
from dynamics.regularizers.pools import lowest_share, of_next, places
from dynamics.regularizers.registry import METHODS, setting


@dataclass(frozen=True, slots=True, repr=False)
class DropPool(Shown):
    """The tokens that a run's token dropout may take.

    Attributes
    ----------
    method : str
        The regulariser's name in the recipe.
    share : float
        Of the predicted training tokens; 1 for random token dropout, NaN where a threshold sets it and `may_drop` is
        None.
    may_drop : ndarray of bool, shape (S, P), or None
        For the recorded training tokens. None where the recipe and the reference values do not tell: the pool is
        another one in every epoch or batch (``source: previous_epoch`` and ``current``, ``ranks: batch``), or another
        model's. `Records.dropped` says what was taken of it.
    """

    method: str
    share: float
    may_drop: NDArray[np.bool_] | None


def drop_pool(train: Records) -> DropPool | None:
    """Return the pool of the token dropout in the recipe of a run, or None if it has none.

    Parameters
    ----------
    train : Records
        Of the training set. Ranks are taken over all of its sequences, recorded or not.
    """
    for settings in train.run.config.get("regularizers") or []:
        method = METHODS.get(settings.get("name"))
        if method is None or method.pool_end is None:
            continue
        name = method.recipe_name()
        if method.pool_end == "any":
            return DropPool(name, 1.0, np.asarray(train.predicted, dtype=bool))
        threshold, pool = setting(settings, "threshold"), setting(settings, "pool")
        share = math.nan if pool is None else float(pool)
        if setting(settings, "source") != "reference" or setting(settings, "ranks") == "batch":
            return DropPool(name, share, None)
        whole = train.whole
        values = whole.reference_entropy if setting(settings, "signal") == "entropy" else whole.reference_loss
        if setting(settings, "distribution") == "at_token":
            values = of_next(np.asarray(values), np.asarray(whole.predicted))
        end = -1.0 if method.pool_end == "highest" else 1.0
        if threshold is not None:
            inside = whole.predicted & (end * values <= end * threshold)
            return DropPool(name, float(inside.sum() / max(1, whole.predicted.sum())), inside[whole.recorded])
        group = _groups(whole, setting(settings, "ranks"))
        if setting(settings, "choice") == "lowest":
            # The pool grows with the curriculum, up to its peak.
            share = float(setting(settings, "ratio"))
            inside = whole.predicted & (places(end * values, whole.predicted, group) <= share)
        else:
            inside = lowest_share(end * values, whole.predicted, share, group)
        return DropPool(name, share, inside[whole.recorded])
    return None


def entropy_rank(values: NDArray[Any], train: WholeSplit) -> NDArray[np.float64]:
    """Return where values of reference entropy lie among those of the training set, from 0 to 1.

    Parameters
    ----------
    values : ndarray
        Nats.
    train : WholeSplit
        Its predicted tokens are what is ranked against.

    Returns
    -------
    ndarray of float64
        Share of training tokens that are lower, and half of those that are equal; NaN for NaN, and throughout if no
        training token has a reference entropy.
    """
    known = train.reference_entropy[train.predicted]
    known = np.sort(known[~np.isnan(known)])
    values = np.asarray(values)
    if not len(known):
        return np.full(values.shape, np.nan)
    below = np.searchsorted(known, values, side="left")
    rank = (below + np.searchsorted(known, values, side="right")) / (2.0 * len(known))
    return np.where(np.isnan(values), np.nan, rank)


def _groups(whole: WholeSplit, ranks: str) -> NDArray[Any] | None:
    if ranks == "document":
        return whole.document_id
    if ranks == "sequence":
        return np.broadcast_to(np.arange(len(whole.document_id))[:, None], whole.document_id.shape)
    return None
