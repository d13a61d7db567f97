"""Dropping a token from the sequence itself: it is deleted from it, or no other token attends to it.

Deleted tokens are moved to the end of their row and positions close up, so that shapes stay what they are and nobody
waits for the device. A causal model sees nothing of what comes later, so what it computes for the tokens that are left
is what it computes for the shorter text. Each of them goes back to its own column afterwards, and at the column of a
deleted token stands what the token before it knows: the column before each token predicts it from the tokens that are
left.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Of shape (B, T), and in the order of the targets, which stays.
_TARGETS = ("labels", "shift_labels")
_BY_COLUMN = ("attention_mask", "token_type_ids")


def order_without(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how to move deleted tokens to the end of each row, and back.

    Parameters
    ----------
    mask : Tensor of bool, shape (B, T)
        The tokens to delete.

    Returns
    -------
    order : Tensor of int64, shape (B, T)
        The column from which each column's token comes: those that are left, in their order, then the others.
    source : Tensor of int64, shape (B, T)
        The new column of the last token, at or before each old column, that is left; 0 where there is none.
    """
    return mask.byte().argsort(dim=1, stable=True), ((~mask).cumsum(1) - 1).clamp_min(0)


def closed_positions(position_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of tokens, shape (B, T), when those before them in their sequence are deleted.

    Parameters
    ----------
    position_ids : Tensor of int64, shape (B, T) or (1, T)
        A new sequence begins where they are 0.
    mask : Tensor of bool, shape (B, T)
    """
    import torch

    gone = mask.cumsum(1)
    before = torch.where(position_ids == 0, gone, 0).cummax(1).values
    return position_ids - (gone - before)


def deleted(kwargs: Mapping[str, Any], mask: torch.Tensor, method: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Return what a model's forward is given without the tokens of `mask`, and their `source` (see `order_without`).

    Raises
    ------
    InputError
        It is given something of which it is not known how a token is deleted from it.
    """
    order, source = order_without(mask)
    found = dict(kwargs)
    for name, value in kwargs.items():
        if value is None or name in _TARGETS:
            continue
        if name == "input_ids" or (name in _BY_COLUMN and getattr(value, "shape", None) == mask.shape):
            found[name] = value.gather(1, order)
        elif name == "position_ids" and value.ndim == 2:
            found[name] = closed_positions(value, mask).gather(1, order)
        elif name in _BY_COLUMN or name == "position_ids" or _depends_on_columns(name, value, mask):
            raise InputError(
                f"{method}: replacement: deleted cannot take tokens out of {name}, which this model is given; use "
                "another replacement"
            )
    return found, source


def back_in_place(output: Any, source: torch.Tensor, method: str) -> Any:
    """Return what a decoder puts out with hidden states in the columns that they had before `deleted`.

    Raises
    ------
    InputError
        They are not one for each token.
    """
    hidden = output[0]
    if hidden.shape[:2] != source.shape:
        raise InputError(
            f"{method}: replacement: deleted finds {tuple(hidden.shape[:2])} hidden states for tokens of shape "
            f"{tuple(source.shape)}; use another replacement"
        )
    moved = hidden.gather(1, source[..., None].expand_as(hidden))
    if isinstance(output, tuple):
        return (moved, *output[1:])
    output.last_hidden_state = moved
    return output


def require_attention_mask(model: nn.Module, method: str) -> None:
    """Raise InputError for a model whose forward takes no attention mask."""
    taken = inspect.signature(model.forward).parameters
    any_keyword = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    if "attention_mask" not in taken and not any_keyword:
        raise InputError(
            f"{method}: replacement: unattended needs a model that takes an attention_mask, and {type(model).__name__} "
            "takes none; use another replacement"
        )


def unattended(kwargs: Mapping[str, Any], mask: torch.Tensor, model: nn.Module, method: str) -> dict[str, Any]:
    """Return what a model's forward is given when no token attends to those of `mask`, which is of shape (B, T).

    Raises
    ------
    InputError
        The batch or the model leaves no place to say so.
    """
    import torch

    given = kwargs.get("attention_mask")
    if given is None and kwargs.get("position_ids") is not None:
        raise InputError(
            f"{method}: replacement: unattended needs the attention mask of a padded batch, and this one has "
            "position_ids and none, as packed rows have; use a collator that pads, or another replacement"
        )
    if given is not None and given.shape != mask.shape:
        raise InputError(
            f"{method}: replacement: unattended needs an attention mask of shape {tuple(mask.shape)}, and this batch "
            f"has one of shape {tuple(given.shape)}; use another replacement"
        )
    config = getattr(model, "config", None)
    for name in ("sliding_window", "attention_chunk_size"):
        reach = getattr(config, name, None)
        if isinstance(reach, int) and reach < mask.shape[1]:
            # A token all of whose window is dropped would attend to nothing, and its softmax to everything.
            raise InputError(
                f"{method}: replacement: unattended needs tokens that see their whole sequence, and "
                f"{type(model).__name__} has {name} {reach} for {mask.shape[1]} tokens; use another replacement"
            )
    ones = torch.ones_like(mask, dtype=torch.int64) if given is None else given
    return {**kwargs, "attention_mask": ones.masked_fill(mask, 0)}


def _depends_on_columns(name: str, value: Any, mask: torch.Tensor) -> bool:
    import torch

    if name.startswith(("cu_seq_lens", "max_length", "seq_idx")):
        return True
    return isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[:2] == mask.shape
