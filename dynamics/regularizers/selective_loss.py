"""Selective loss: only tokens count that a reference model predicts better than the model that is trained.

Rho-1 (Lin et al. 2024, arXiv 2404.07965) scores each token by its excess loss, the current loss less that of a
reference model, and trains on the k % of a batch's tokens with the highest ones: their losses are summed
and divided by N k %. There the reference model was trained on text of high quality; here it is the frozen
starting model, or any other of the same vocabulary.

In their formula the best k % are those of the batch at hand. Here the threshold stands still during an optimiser step,
and is renewed after it from the excess losses of the last `window` steps, as that of `loss_truncation` is: so it does
not depend on how a step is split into micro-batches and processes. Excess losses are counted by their sign and leading
8 significant bits; what shares a bin with the threshold counts: never less than `share` of the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dynamics.errors import InputError
from dynamics.regularizers.base import ActsOn, Batch, Regularizer, TrainingData, signature_of_settings
from dynamics.regularizers.loss_truncation import N_BINS, loss_bin, lowest_in_bin
from dynamics.regularizers.other_model import OtherModel, require_same_values, values_hash
from dynamics.regularizers.step_history import StepHistory
from dynamics.regularizers.tables import DeviceTable
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch


class SelectiveLossSettings(Settings):
    """Selective loss: tokens of the highest excess loss over a reference model count (arXiv 2404.07965)."""

    name: Literal["selective_loss"] = "selective_loss"
    share: float = Field(default=0.6, gt=0.0, lt=1.0, description="share of recent tokens that count")
    source: Literal["reference"] | OtherModel = Field(
        default="reference",
        description="the reference model: the frozen starting model, or {model: FOLDER or hub name}",
    )
    window: int = Field(default=10, ge=1, le=1000, description="optimiser steps whose excess losses set the threshold")
    warmup: int = Field(default=1, ge=1, description="optimiser steps in which all tokens count")
    normalize: Literal["share", "all"] = Field(
        default="share", description="divide the loss by `share` of all predicted tokens (Rho-1's N k %), or by all"
    )


class SelectiveLoss(Regularizer):
    """Give weight only to tokens whose excess loss over a reference model is among the highest `share`.

    Which tokens these are is known only once their losses are, so that the others are not among the records' dropped
    tokens.

    Parameters
    ----------
    share : float, default 0.6
        Share of recent tokens that count, in (0, 1): the paper's k % (Rho-1, arXiv 2404.07965).
    source : "reference" or mapping, default "reference"
        The reference model: the frozen starting model, or ``{"model": FOLDER or hub name, "trust_remote_code":
        False}``. In the paper it is a model trained on text of high quality.
    window : int, default 10
        Optimiser steps whose excess losses set the threshold, 1 to 1,000.
    warmup : int, default 1
        Optimiser steps in which all tokens count, at least 1.
    normalize : {"share", "all"}, default "share"
        What the loss is divided by: `share` times the number of all predicted tokens (the paper's N k %), or that
        number.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = SelectiveLossSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("token losses",)
    adapts = True
    needs_rows = True
    settings: SelectiveLossSettings

    @signature_of_settings
    def __init__(
        self,
        *,
        share: float = 0.6,
        source: Literal["reference"] | Mapping[str, Any] = "reference",
        window: int = 10,
        warmup: int = 1,
        normalize: Literal["share", "all"] = "share",
    ) -> None: ...

    def set_up(self) -> None:
        self._history = StepHistory(2 * N_BINS, self.settings.window)
        self._first: torch.Tensor | None = None  # the lowest bin that counts, once there is a threshold
        self._values_hash: str | None = None  # of another model's losses
        self._table: DeviceTable | None = None
        self._reference: torch.Tensor | None = None  # of the micro-batch under way, shape (B (T - 1),)

    @property
    def other_model(self) -> OtherModel | None:
        return self.settings.source if isinstance(self.settings.source, OtherModel) else None

    @property
    def threshold(self) -> float:
        """Excess loss, in nats, from which on tokens count in this step; minus infinity during warm-up."""
        return -np.inf if self._first is None else lower_edge(int(self._first))

    def prepare(self, data: TrainingData) -> None:
        loss = data.reference_loss
        if self.other_model is not None:
            loss = data.values_of[self.other_model.model][0]
            self._values_hash = values_hash(loss)
        unknown = (np.isnan(loss) & data.predicted).any(axis=1).sum()
        if unknown:
            raise InputError(
                f"{type(self).__name__}: the reference model's loss is NaN in {unknown} of {len(loss)} sequences; give "
                "another model as source, or leave the method out"
            )
        self._table = DeviceTable(loss.astype(np.float32))

    def begin_batch(self, batch: Batch) -> None:
        assert self._table is not None, "prepare() comes first"
        self._reference = batch.look_up(self._table)[:, 1:].flatten()

    def end_batch(self) -> None:
        self._reference = None

    def adaptive_weight(
        self,
        loss: torch.Tensor,
        entropy: torch.Tensor,
        kept: torch.Tensor,
        logits: torch.Tensor | None = None,
        *,
        rows: Any = slice(None),
    ) -> torch.Tensor:
        """Return the weight of tokens that count, else 0, and note the excess of those kept: once for each token."""
        import torch

        assert self._reference is not None, "begin_batch() comes first"
        excess = loss.float() - self._reference[rows]
        bins = excess_bin(excess)
        self._history.note(bins, kept)
        if self._first is None:
            return torch.ones_like(excess)
        if self._first.device != bins.device:  # after a resume
            self._first = self._first.to(bins.device)
        weight = 1.0 / self.settings.share if self.settings.normalize == "share" else 1.0
        # A loss that is no number stays one, so that it is seen.
        return torch.where((bins >= self._first) | excess.isnan(), weight, 0.0)

    def end_step(self) -> None:
        self._history.end_step()
        self._renew()

    def state(self) -> dict[str, Any]:
        kept = {} if self.other_model is None else {"values": self._values_hash}
        return {**self._history.state(), **kept}

    def load_state(self, state: dict[str, Any]) -> None:
        require_same_values(self._values_hash, state.get("values"), self.other_model)
        self._history.load_state(state)
        self._renew()

    def _renew(self) -> None:
        if self._history.steps >= self.settings.warmup:
            self._first = lowest_of_share(self._history.counts(), self.settings.share)


def excess_bin(excess: torch.Tensor) -> torch.Tensor:
    """Return the bin of each excess loss, in nats: int64 of the same shape, in [0, 2 N_BINS), in their order.

    What is nearer to 0 than 2**-10 is in one bin, whatever its sign: two ways of computing one loss differ by less,
    and in the first steps that is all there is between the model and the one that it started from.
    """
    import torch

    size = loss_bin(excess.abs())
    return torch.where(excess < 0, N_BINS - size, N_BINS + size)


def lower_edge(place: int) -> float:
    """Return the lowest excess loss of a bin, in nats; minus infinity of the first."""
    if place > N_BINS:
        return lowest_in_bin(place - N_BINS)
    # A bin of negative numbers ends where the next larger absolute value begins; the last one has no end.
    return -lowest_in_bin(N_BINS - place + 1) if place > 1 else -np.inf


def lowest_of_share(counts: torch.Tensor, share: float) -> torch.Tensor:
    """Return the bin from which on lies at least a share of what was counted.

    Parameters
    ----------
    counts : Tensor of int64, shape (n_bins,)
    share : float
        In (0, 1).

    Returns
    -------
    Tensor of int64, scalar
        Of n values, the bin of the one of rank ceil(share n) from the highest; 0 if there are none.
    """
    import torch

    n = counts.sum()
    # A product such as 0.29 * 100 = 28.999... stands for the whole number.
    wanted = (n.double() * share - 1e-9).ceil().long()
    place = torch.searchsorted(counts.cumsum(0), n - wanted, right=True)
    return torch.where(n > 0, place, 0)
