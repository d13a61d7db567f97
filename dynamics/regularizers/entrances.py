"""Where tokens enter a model, and what to put there in place of one.

Most models look a token's id up in one table. Some have further entrances: a second embedding that each layer adds
(Gemma 3n and 4), hashes of several ids (BLT), experts chosen by id (DeepSeek 4). All of them read the ids that the
model is given, so a token whose id is replaced there enters nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dynamics.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

_ROWS_AT_ONCE = 8192


def replace_embeddings(embedding: torch.Tensor, mask: torch.Tensor, replacement: torch.Tensor | float) -> torch.Tensor:
    """Return `embedding` (B, T, H) with the rows where `mask` (B, T) is set replaced."""
    import torch

    if isinstance(replacement, float):
        return embedding.masked_fill(mask[..., None], replacement)
    return torch.where(mask[..., None], replacement.to(embedding.dtype), embedding)


def scaled(embedding: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Return `embedding` (B, T, H) with each row multiplied by its `scale` (B, T), or as it is without one."""
    return embedding if scale is None else embedding * scale[..., None].to(embedding.dtype)


def input_embedding(model: nn.Module, method: str) -> nn.Module:
    """Return the model's table of input embeddings.

    Raises
    ------
    InputError
        The model has none, or does not say which it is.
    """
    from torch import nn

    find: Any = getattr(model, "get_input_embeddings", None)
    try:
        found = None if find is None else find()
    except NotImplementedError:  # as transformers' own answer is, where it knows no better
        found = None
    if not isinstance(found, nn.Module):
        raise InputError(
            f"{method}: {type(model).__name__} does not say what its input embeddings are; give the module, as "
            "attach(model, embedding), or use target: loss"
        )
    return found


def n_rows(embedding: nn.Module) -> int:
    """Return how many tokens a table of embeddings has."""
    rows: int = cast(Any, embedding).weight.shape[0]
    return rows


def second_embeddings(model: nn.Module, embedding: nn.Module) -> list[nn.Module]:
    """Return the model's other tables: some are given ids, the rest positions or types."""
    from torch import nn

    first = set(embedding.modules())
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module not in first]


def neutral_token(model: nn.Module) -> int:
    """Return the lowest id that means nothing to the model's code: not padding, nor the place of an image, say."""
    config: Any = getattr(model, "config", None)
    meant: set[Any] = set()
    for part in (config, getattr(config, "text_config", None)):
        # Of any kind: a plain model's may be a mapping, or nothing.
        fields: Mapping[str, Any] = part if isinstance(part, Mapping) else getattr(part, "__dict__", {})
        for name, value in fields.items():
            if name.endswith(("token_id", "token_index")):
                meant.update(value if isinstance(value, list | tuple) else [value])
    return next(token for token in range(len(meant) + 1) if token not in meant)


def place_of_ids(args: Sequence[Any], kwargs: Mapping[str, Any], shape: Sequence[int]) -> int | str | None:
    """Return where a forward pass is given ids: a keyword, the index of a positional argument, or None.

    Parameters
    ----------
    args, kwargs
        Of the model's forward pass.
    shape : tuple of int
        (B, T); what has another shape is something else.
    """
    import torch

    candidates: list[tuple[int | str, Any]] = [("input_ids", kwargs.get("input_ids")), *list(enumerate(args))[:1]]
    for place, value in candidates:
        if isinstance(value, torch.Tensor) and not value.is_floating_point() and value.shape == torch.Size(shape):
            return place
    return None


def table_mean(module: nn.Module) -> torch.Tensor:
    """Return the mean over the vocabulary of what an embedding gives for a token, shape (H,), detached."""
    import torch
    from torch import nn

    weight: Any = cast(Any, module).weight.detach()
    if type(module) is nn.Embedding:
        mean: torch.Tensor = weight.mean(dim=0)
        return mean
    # Some scale their table, or add an adapter's to it: only they know.
    with torch.no_grad():
        tokens: Any = torch.arange(len(weight), device=weight.device)
        sums = [module.forward(part).float().sum(dim=0) for part in tokens.split(_ROWS_AT_ONCE)]
    return torch.stack(sums).sum(dim=0) / len(weight)


def table_row(module: nn.Module, token: int, device: torch.device) -> torch.Tensor:
    """Return what an embedding gives for one token, shape (H,)."""
    import torch

    # Filled on the device: a number that is sent there would be waited for.
    row: torch.Tensor = module.forward(torch.full((), token, dtype=torch.int64, device=device))
    return row
