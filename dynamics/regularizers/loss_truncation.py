"""Loss truncation: tokens of the highest current losses do not count.

Kang & Hashimoto 2020 (arXiv 2004.14589) drop the training examples whose loss lies above a quantile of recent losses,
since a reference that the model cannot fit is often wrong. Here it is done by token. Their code
(ddkang/loss_dropper) drops whole sequences, by the quantile of the last 10,000 that it saw, renewed every 10,000; that
history moves on within a batch. Here the threshold stands still during an optimiser step and is renewed after it,
from all losses of the last `window` steps, so that it is the same for any split of a step into micro-batches and
processes. As in their code, the sum of what is kept is divided by the number of all tokens.

The history is kept as a count of losses by their leading 8 significant bits (a bfloat16's worth: each bin is at
most 0.8% wide), one row a step (`step_history`). The threshold is the upper edge of the bin in which the quantile lies:
never more than `fraction` of the history is above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dynamics.regularizers.base import ActsOn, Regularizer, signature_of_settings
from dynamics.regularizers.step_history import StepHistory
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch

# A float32 shifted right by 16 is a bfloat16: sign, 8 bits of exponent, 7 of mantissa, in the order of the numbers.
_BITS = 16
_LOWEST = (127 - 10) << 7  # 2**-10 nats; smaller losses share the first bin
N_BINS = 16 << 7  # up to 2**6 nats; larger losses share the last bin


class LossTruncationSettings(Settings):
    """Loss truncation: tokens of the highest current losses do not count (arXiv 2004.14589, by token)."""

    name: Literal["loss_truncation"] = "loss_truncation"
    fraction: float = Field(default=0.1, gt=0.0, lt=1.0, description="share of recent losses above the threshold")
    window: int = Field(default=100, ge=1, le=1000, description="optimiser steps whose losses set the threshold")
    warmup: int = Field(default=100, ge=1, description="optimiser steps before anything is dropped")


class LossTruncation(Regularizer):
    """Give no weight to tokens whose loss is above the (1 - fraction) quantile of recent losses.

    Which tokens these are is known only once their losses are, so that they are not among the records' dropped
    tokens.

    Parameters
    ----------
    fraction : float, default 0.1
        Share of recent losses above the threshold, in (0, 1) (Kang and Hashimoto 2020, arXiv 2004.14589).
    window : int, default 100
        Optimiser steps whose losses set the threshold, 1 to 1,000.
    warmup : int, default 100
        Optimiser steps before anything is dropped, at least 1.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = LossTruncationSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("token losses",)
    adapts = True
    settings: LossTruncationSettings

    @signature_of_settings
    def __init__(self, *, fraction: float = 0.1, window: int = 100, warmup: int = 100) -> None: ...

    def set_up(self) -> None:
        import torch

        self._history = StepHistory(N_BINS, self.settings.window)
        self._threshold = torch.tensor(torch.inf, dtype=torch.float32, device="cpu")

    @property
    def threshold(self) -> float:
        """Loss, in nats, from which on tokens have no weight in this step; infinite during warm-up."""
        return float(self._threshold)

    def adaptive_weight(
        self, loss: torch.Tensor, entropy: torch.Tensor, kept: torch.Tensor, logits: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return 0 for tokens above the threshold, else 1, and note the losses of those kept: once for each token."""
        if self._threshold.device != loss.device:
            self._threshold = self._threshold.to(loss.device)
        # NaN has a bin too, in which a token that is not kept counts 0.
        self._history.note(loss_bin(loss), kept)
        return (loss < self._threshold).float()

    def end_step(self) -> None:
        self._history.end_step()
        self._renew()

    def state(self) -> dict[str, Any]:
        return self._history.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._history.load_state(state)
        self._renew()

    def _renew(self) -> None:
        if self._history.steps >= self.settings.warmup:
            self._threshold = upper_edge(self._history.counts(), self.settings.fraction)


def loss_bin(loss: torch.Tensor) -> torch.Tensor:
    """Return the bin of each loss, in nats: int64 of the same shape, in [0, N_BINS)."""
    import torch

    bits = loss.float().contiguous().view(torch.int32) >> _BITS
    return (bits - _LOWEST).clamp(0, N_BINS - 1).long()


def lowest_in_bin(place: int) -> float:
    """Return the lowest loss that a bin is for, in nats: 0 for the first."""
    if place == 0:
        return 0.0
    return float(np.array((place + _LOWEST) << _BITS, dtype=np.uint32).view(np.float32))


def upper_edge(counts: torch.Tensor, fraction: float) -> torch.Tensor:
    """Return the loss above which lies at most a fraction of the counted losses.

    Parameters
    ----------
    counts : Tensor of int64, shape (N_BINS,)
    fraction : float
        In (0, 1).

    Returns
    -------
    Tensor of float32, scalar
        With n losses, the upper edge of the bin that holds the one of rank n - floor(fraction n), counted from the
        lowest; infinite if that is the last bin, or if there are none.
    """
    import torch

    n = counts.sum()
    # A product such as 0.29 * 100 = 28.999... stands for the whole number.
    above = (n.double() * fraction + 1e-9).floor().long()
    place = torch.searchsorted(counts.cumsum(0), n - above)
    edge = ((place + 1 + _LOWEST) << _BITS).to(torch.int32).view(torch.float32)
    return torch.where((place < N_BINS - 1) & (n > 0), edge, torch.inf)
