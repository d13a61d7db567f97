"""Goldfish loss: one token in k never enters the loss, so that no text can be learned word for word.

Hans et al. 2024, arXiv 2406.10209. The tokens left out are the same in every epoch; a model that reproduces a
training text has to guess each of them. The code that the authors published (ahans30/goldfish-loss,
lit_gpt/utils.py) and the paper leave choices open; those made here are:

- `static` counts positions in the packed sequence, as their code does, not in the document. Left out are positions
  k, 2k, ...; theirs begin with the first prediction.
- `hash` hashes the h tokens before a token, as section 3.1 says. Their code hashes h tokens that end with it, by the
  product of their ids: a hash that does not know their order, and is 0 wherever one id is 0. Here it is SplitMix64.
- A token with fewer than h tokens of its own document before it is never left out; in their code, those at the
  start of a packed sequence are not. Here context goes on from one packed sequence to the next, and ends with the
  document, so that a passage is treated alike wherever packing puts it.
- The hash does not depend on the run's seed, as their table does not: a text that two runs share is treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from dynamics.regularizers.base import ActsOn, Batch, Regularizer, TrainingData, signature_of_settings
from dynamics.regularizers.tables import DeviceTable
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch


class GoldfishLossSettings(Settings):
    """Goldfish loss: one token in k never enters the loss (arXiv 2406.10209)."""

    name: Literal["goldfish_loss"] = "goldfish_loss"
    variant: Literal["static", "hash"] = Field(
        default="hash",
        description="which tokens: every k-th of a sequence, or those that a hash of the h tokens before them picks",
    )
    k: int = Field(default=4, ge=2, description="one token in k is dropped")
    h: int = Field(default=13, ge=1, le=1000, description="variant hash: tokens of context that are hashed")
    normalize: Literal["all", "kept"] = Field(
        default="kept", description="divide the loss by all predicted tokens, or by those kept"
    )

    @model_validator(mode="after")
    def _context_is_read(self) -> GoldfishLossSettings:
        if self.variant == "static" and self.h != type(self).model_fields["h"].default:
            raise ValueError("h is only read with variant: hash")
        return self


class GoldfishLoss(Regularizer):
    """Leave one token in k out of the loss (arXiv 2406.10209).

    Parameters
    ----------
    variant : {"hash", "static"}, default "hash"
        Which tokens are left out: those that a hash of the `h` tokens before them picks (section 3.1 of the paper), or
        positions k, 2k, ... of each sequence.
    k : int, default 4
        One token in `k` is left out, at least 2.
    h : int, default 13
        Tokens of context that are hashed, 1 to 1,000; only with `variant` "hash".
    normalize : {"kept", "all"}, default "kept"
        What the loss is divided by: the number of tokens kept (the paper's 1 / abs(G)), or of all predicted tokens.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range, or `h` is given with `variant`
        "static".
    """

    settings_model = GoldfishLossSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("token losses",)
    settings: GoldfishLossSettings

    @signature_of_settings
    def __init__(
        self,
        *,
        variant: Literal["static", "hash"] = "hash",
        k: int = 4,
        h: int = 13,
        normalize: Literal["all", "kept"] = "kept",
    ) -> None: ...

    def set_up(self) -> None:
        self._table: DeviceTable | None = None  # over the training set: which tokens are left out
        self._share = 1.0 / self.settings.k

    def prepare(self, data: TrainingData) -> None:
        k = self.settings.k
        if self.settings.variant == "static":
            chosen = every_kth(data.predicted.shape, k)
        else:
            chosen = hashed_contexts(data.token_id, data.document_id, k=k, h=self.settings.h)
        chosen &= data.predicted
        self._table = DeviceTable(chosen)
        self._share = float(chosen.sum() / max(1, data.predicted.sum()))

    def dropped(self, batch: Batch) -> torch.Tensor:
        assert self._table is not None, "prepare() comes first"
        return batch.look_up(self._table) & batch.predicted

    def ratio(self, progress: float) -> float:
        """Return the share of the training set's predicted tokens that is left out: at most about 1 / k."""
        return self._share

    def token_weight(self, batch: Batch) -> torch.Tensor:
        return (~self.dropped(batch)).float()

    @classmethod
    def divisor(cls, settings: Mapping[str, Any]) -> str | None:
        # The paper defines the loss as the mean over the tokens kept, 1/|G| (section 3).
        return settings.get("normalize")


def every_kth(shape: tuple[int, ...], k: int) -> np.ndarray:
    """Return which positions of (n_sequences, n_positions) are k, 2k, ...: bool of that shape."""
    position = np.arange(shape[1])
    return np.tile((position > 0) & (position % k == 0), (shape[0], 1))


def hashed_contexts(token_id: np.ndarray, document_id: np.ndarray, *, k: int, h: int) -> np.ndarray:
    """Return which tokens follow a context that a hash picks, one context in k.

    Parameters
    ----------
    token_id, document_id : ndarray of int, shape (n_sequences, n_positions)
        A document that is longer than its sequence goes on in the next; -1 is padding.
    k : int
    h : int
        Tokens of context; a token with fewer in its document before it is never picked.

    Returns
    -------
    ndarray of bool, shape (n_sequences, n_positions)
        Where the hash of the h tokens before is divisible by k.
    """
    import torch

    from dynamics.ops.keyed_random import STREAM_CONTEXT, mixed

    token, document = token_id.ravel(), document_id.ravel()
    picked = np.zeros(len(token), dtype=np.bool_)
    if len(token) > h:
        # Row i holds the h tokens before token i + h.
        context = torch.from_numpy(token.astype(np.int64))[:-1].unfold(0, h, 1)
        picked[h:] = (mixed(STREAM_CONTEXT, *context.unbind(1)) % k == 0).numpy()
    starts = np.concatenate([[True], document[1:] != document[:-1]])
    index = np.arange(len(token))
    place = index - np.maximum.accumulate(np.where(starts, index, 0))
    return (picked & (place >= h) & (document >= 0)).reshape(token_id.shape)
