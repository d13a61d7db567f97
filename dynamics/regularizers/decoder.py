"""Where the layers of a model are, for methods that act inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def decoder_of(model: nn.Module, method: str) -> Any:
    """Return the module that holds the decoder's layers.

    Parameters
    ----------
    model : Module
    method : str
        The name of the method that asks, for the message.

    Raises
    ------
    InputError
        The model does not say where its layers are, as those of transformers do.
    """
    find: Any = getattr(model, "get_decoder", None)
    if find is None:
        raise InputError(
            f"{method}: acts inside the layers of transformers' models, and {type(model).__name__} is none (it has no "
            "get_decoder); leave it out for this model"
        )
    return find()
