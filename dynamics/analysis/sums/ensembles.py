"""Ensembles: the seeds of an arm as one model, whose probability of a token is the mean of theirs.

    loss of the ensemble = -log(mean over seeds of exp(-loss)),   token by token

(a mixture of their predictions: Lakshminarayanan et al. 2017, arXiv 1612.01474). It is exact from the records, since
the loss of a token is its probability. Nothing else of the ensemble is in them: its entropy and which token is its most
probable one depend on whole distributions, and are refused by name.

By Jensen's inequality its loss is at most the seeds' mean loss at every token, and at least their lowest.

Records as float16 are rounded to 11 significant bits, a token's loss to one part in 2,048. A change of the members'
losses changes the ensemble's by a weighted mean of their changes, the weights being the members' shares of its
probability. So the rounding of the ensemble is never more than that of the worst of its members, 2**-11 times their
highest loss (5e-4 nats at 1 nat), and, signs being as good as random, far less in a mean over many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NoReturn, SupportsIndex

import numpy as np

from dynamics.analysis.sums.arms import Arm, has_sums_alone
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError
from dynamics.records.reader import Run
from dynamics.records.summaries.reading import no_tokens
from dynamics.records.tensors import Array
from dynamics.records.values import Records

#: What stands behind an arm's name where the ensemble of its seeds is meant, before their number.
ENSEMBLE_OF = " (ensemble of "


class Ensemble(Arm):
    """An arm whose seeds answer together, as one run; `ensemble` makes it.

    Parameters
    ----------
    arm : Arm
        Its runs answer together.

    Attributes
    ----------
    members : list of Run
        The runs whose probabilities are averaged. `runs` holds the ensemble itself, as a run that reads theirs.
    """

    def __init__(self, arm: Arm) -> None:
        self.members = list(arm.runs)
        super().__init__(f"{arm.name}{ENSEMBLE_OF}{len(arm.runs)})", [EnsembleRun(arm.runs, arm.epochs)])


def ensemble(arm: Arm) -> Ensemble:
    """Return the ensemble of an arm's seeds as an arm of its own: one run, at the epochs that all seeds have.

    It goes wherever an arm goes: curves, buckets (moving ones by the ensemble's own loss), comparisons. Its sums have
    one part, so that intervals over seeds do not exist for it: it is one model, made of all of them.

    Parameters
    ----------
    arm : Arm
        Of one seed it is that seed.

    Raises
    ------
    InputError
        If no epoch is complete in all seeds, `arm` is an ensemble already, or its runs are a summary's, without
        tokens. Asked for entropy, correctness or anything else that the records do not hold of the ensemble, it raises
        when it is asked.
    """
    if isinstance(arm, Ensemble):
        raise InputError(f"arm {arm.name!r} is an ensemble already; give the arm whose seeds it is made of")
    if has_sums_alone(arm):
        raise no_tokens(arm.runs[0].path, "an ensemble, whose loss is made token by token,")
    return Ensemble(arm)


class EnsembleRun(Run):
    """Several runs of the same tokens read as one, that of their ensemble; nothing of it lies on disk.

    Parameters
    ----------
    members : sequence of Run
        At least one, all with the same tokens.
    epochs : sequence of int
        Of those that all members recorded after the same passes.
    """

    def __init__(self, members: Sequence[Run], epochs: Sequence[int]) -> None:
        first = members[0]
        self.members = list(members)
        self.path, self.hashes = first.path, None
        self.name = f"ensemble of {len(members)}"
        self.epochs, self.splits = list(epochs), list(first.splits)
        seeds = [run.manifest.get("seeds", {}).get("seed") for run in members]
        # What the members share; the rest of the manifest (times, hashes of epochs) is theirs alone.
        shared = ("format_version", "status", "tokens", "tokenizer", "token_text", "data", "steps_per_epoch")
        self.manifest = {key: first.manifest[key] for key in shared if key in first.manifest}
        self.manifest |= {"name": self.name, "seeds": {"ensemble": seeds}}

    @cached_property
    def partial_epochs(self) -> dict[int, float]:
        """As of its members, which were cut at the same place."""
        return {epoch: at for epoch, at in self.members[0].partial_epochs.items() if epoch in self.epochs}

    def step(self, epoch: SupportsIndex) -> int | None:
        """Return after how many optimiser steps of each member `epoch` was recorded."""
        return self.members[0].step(self._recorded(epoch))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recipe of its first member; the others differ in their seed."""
        return self.members[0].config

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of all members: means over them are means over the members' training."""
        return [row for run in self.members for row in run.metrics()]

    def explore(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: a page shows entropies, and those of an ensemble are not known."""
        raise InputError(f"the {self.name} cannot be explored, as only its losses are known; explore a member")

    def records(self, split: str) -> Records:
        """Return the ensemble's records of a split: the members' tokens, and the loss of all of them together."""
        return EnsembleRecords(self, split)


class EnsembleRecords(Records):
    """Records whose loss is the ensemble's; whatever else was recorded of an epoch is refused by name."""

    def __init__(self, run: EnsembleRun, split: str) -> None:
        self._members = [member.records(split) for member in run.members]
        # Tokens, texts and reference values are the same in all.
        self.__dict__.update({**vars(self._members[0]), "run": run, "_members": self._members})

    def to_xarray(self) -> NoReturn:
        """Refused: a data set holds all that was recorded, and of an ensemble only losses are known."""
        raise InputError(f"the {self.run.name} has no data set, as only its losses are known; use loss(epoch)")

    def _values(self, epoch: SupportsIndex, name: str, *, optional: bool = False, mapped: bool = False) -> Array:
        if name != "loss":
            raise InputError(
                f"{name!r} of an ensemble is not known from its members' records, only its loss is; ask the arm that "
                "it is made of"
            )
        self.run._recorded(epoch)
        return ensemble_loss([member.stored("loss", epoch) for member in self._members])


def ensemble_loss(losses: Sequence[Array]) -> Floats:
    """Return -log(mean(exp(-loss))) over members, elementwise in float64; NaN where any is NaN.

    Parameters
    ----------
    losses : sequence of ndarray
        Of one shape, nats, one a member.
    """
    # From the lowest loss on, so that probabilities too small for a float64 keep their logarithm.
    lowest = losses[0].astype(np.float64)
    for loss in losses[1:]:
        np.minimum(lowest, loss, out=lowest)
    total = np.zeros_like(lowest)
    for loss in losses:
        total += np.exp(lowest - loss)
    result: Floats = lowest - np.log(total / len(losses))
    return result
