"""Which tokens token dropout may take, as the recipe says it: known beforehand, or another set in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.records.values import Records, WholeSplit

#: Methods that drop tokens, and whether they take the lowest or the highest values, or any token.
_TAKES = {"entrodrop": "lowest", "inverse_entrodrop": "highest", "random_token_dropout": "any"}

# Where the recipe leaves a setting of the method out.
_USUAL = {"pool": 0.5, "signal": "entropy", "source": "reference", "ranks": "dataset"}


@dataclass(frozen=True, slots=True)
class DropPool:
    """The tokens that a run's token dropout may take.

    Attributes
    ----------
    method : str
        The regulariser's name in the recipe.
    share : float
        Of the predicted training tokens; 1 for random token dropout.
    may_drop : ndarray of bool, shape (R, B), or None
        For the recorded training tokens. None where the pool is another one in every epoch (``source:
        previous_epoch`` and ``current``): `Records.dropped` says what was taken of it.
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
        takes = _TAKES.get(settings.get("name"))
        if takes is None:
            continue
        name = str(settings["name"])
        if takes == "any":
            return DropPool(name, 1.0, np.asarray(train.predicted, dtype=bool))
        chosen = {key: settings.get(key, usual) for key, usual in _USUAL.items()}
        share = float(chosen["pool"])
        if chosen["source"] != "reference":
            return DropPool(name, share, None)
        whole = train.whole
        values = whole.reference_entropy if chosen["signal"] == "entropy" else whole.reference_loss
        lowest = takes == "lowest"
        inside = lowest_share(values if lowest else -values, whole.predicted, share, _groups(whole, chosen["ranks"]))
        return DropPool(name, share, inside[whole.recorded])
    return None


def lowest_share(
    values: NDArray[Any], predicted: NDArray[np.bool_], share: float, group: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Return the predicted tokens with the lowest values, of all of them or of each group.

    Parameters
    ----------
    values : ndarray, any shape
        NaN counts as higher than every number.
    predicted : ndarray of bool, same shape
    share : float
        In (0, 1].
    group : ndarray of integers, same shape, optional
        Tokens with the same number are ranked among themselves; without, all are.

    Returns
    -------
    ndarray of bool, same shape
        round(share n) of the n predicted tokens of each group (halves to even); of equal values the earlier token's.
    """
    where = np.flatnonzero(predicted)
    of = np.zeros(len(where), dtype=np.int64) if group is None else np.asarray(group).reshape(-1)[where]
    # By group, then by value, then by place: lexsort is stable, and takes the last key first.
    order = np.lexsort((np.asarray(values).reshape(-1)[where], of))
    _, first, place, count = np.unique(of[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.arange(len(where)) - first[place]
    chosen = np.zeros(predicted.size, dtype=bool)
    chosen[where[order[rank < np.round(share * count)[place]]]] = True
    return chosen.reshape(predicted.shape)


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
