"""Measures what a model does with its head's output: a scale, a soft cap, or something unknown.

The fused operator supports logits of the form c tanh(s z / c), where z = W h + b. The configuration does not tell
reliably whether a model's logits have this form: key names differ between models and are not always used. Therefore
the head is made to return chosen numbers, small and large, and the model's own code turns them into logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule

#: Logits in a check reach about this size, so that soft caps have an effect and losses are several nats.
GROWN = 30.0

# At this value a linear function and any soft cap in use differ clearly. float16 can still represent it.
_LARGE = 3e4
_N_PROBED_ROWS = 1
_N_ROWS = 3
_N_POSITIONS = 16

# Parts of names in a configuration or model that may stand for numbers applied to the logits.
_TELLING = ("logit", "cap", "scal", "multipl", "mup", "vocab", "dim_model_base")


@dataclass(frozen=True)
class HeadForm:
    """The form of the logits, given the output z of a linear head: c tanh(s z / c), or s z without a cap.

    Attributes
    ----------
    scale : float or None
        The scale s; None means 1.
    softcap : float or None
        The cap c; None means no cap.
    """

    scale: float | None = None
    softcap: float | None = None

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """Return the logits of `z`."""
        scaled = z if self.scale is None else z * self.scale
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile wrapped, or the module itself."""
    while isinstance(module, OptimizedModule):
        module = module._orig_mod
    return module


def unsuitable(model: Any) -> str | None:
    """Return why a model's head cannot be fused, as far as is known without running it; None if it may be."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        return "its head is unknown (get_output_embeddings)"
    bare = uncompiled(head)
    # A subclass or a replacement (an adapter on the head, a parametrisation) may compute more than one product.
    if type(bare) is not nn.Linear:
        kind = type(bare)
        where = kind.__module__.split(".")[0]
        return f"its head is {where}'s {kind.__name__}, not a plain Linear"
    if "forward" in vars(bare):
        return "its head's forward is replaced"
    if _hooks(head) or _hooks(bare):
        return "its head has hooks"
    return None


def state_of(model: Any) -> tuple[Any, ...]:
    """Return values that change when the head changes. This takes microseconds and does not use the device."""
    head = model.get_output_embeddings()
    bare = None if head is None else uncompiled(head)
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return (
        type(model),
        id(head),
        type(bare),
        None if bare is None else (_hooks(head), _hooks(bare), "forward" in vars(bare)),
        getattr(bare, "bias", None) is None,
        _numbers(model),
        id(text),
        _numbers(text),
    )


def _hooks(module: nn.Module) -> tuple[int, ...]:
    found: list[int] = []
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        found.extend(getattr(module, name, None) or ())
    return tuple(found)


def _numbers(holder: Any) -> tuple[Any, ...]:
    values = () if holder is None else vars(holder).items()
    telling = [(k, v) for k, v in values if type(v) in (int, float, bool) and any(part in k for part in _TELLING)]
    return tuple(telling)


@contextmanager
def head_as(head: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Temporarily replace a head's forward with `function`."""
    missing = object()
    before = vars(head).get("forward", missing)
    head.forward = function
    try:
        yield
    finally:
        if before is missing:
            del head.forward
        else:
            head.forward = before


def sample_ids(model: Any, device: torch.device) -> torch.Tensor:
    """Return token ids for a check, shape (3, 16). They differ from one another, and none is padding."""
    head: Any = uncompiled(model.get_output_embeddings())
    vocabulary = head.weight.shape[0]
    embedding = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if isinstance(embedding, int):
        vocabulary = min(vocabulary, embedding)
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    known = [i for i in range(min(vocabulary, 200)) if i != pad]
    generator = torch.Generator("cpu").manual_seed(0)
    chosen = torch.randint(len(known), (_N_ROWS, _N_POSITIONS), generator=generator, device="cpu")
    return torch.tensor(known, device="cpu")[chosen].to(device)


class Probe:
    """A replacement head. It returns chosen numbers in the first row, and enlarged logits of its own in the others.

    Attributes
    ----------
    growth : float
        The factor by which the hidden states of the other rows were multiplied.
    """

    def __init__(self, head: Any) -> None:
        self._head = head
        self._returned: torch.Tensor | None = None
        self._calls = 0
        self._rounded_to = torch.float32
        self.growth = 1.0

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run in place of the head's forward."""
        self._calls += 1
        weight, bias = self._head.weight, self._head.bias
        with torch.no_grad():
            own = nn.functional.linear(hidden, weight)
            self._rounded_to = own.dtype
            # This waits for the device, like the rest of the check.
            largest = float(own.float().abs().max())
            self.growth = GROWN / largest if 0 < largest < math.inf else 1.0
            # Computed as in the operator's own call, from the enlarged hidden states.
            own = nn.functional.linear(hidden * self.growth, weight, bias)
            exact = torch.float64 if own.dtype == torch.float64 else torch.float32
            returned = own.to(exact)
            if returned.ndim == 3:
                returned[:_N_PROBED_ROWS] = _probe(returned[:_N_PROBED_ROWS].shape, returned.device).to(returned)
            # A second call returns different numbers, so it is not mistaken for the first one.
            self._returned = returned * self._calls
        # If a trainable module changes these numbers later, the logits will require a gradient.
        torch.set_grad_enabled(True)
        return self._returned

    def verdict(self, logits: torch.Tensor, ids: torch.Tensor, n_virtual: int) -> HeadForm | str:
        """Return the form of the logits, or why they have no supported form.

        Parameters
        ----------
        logits : Tensor, shape (B, n_virtual + T, V)
            The output of the model and its wrappers.
        ids : Tensor, shape (B, T)
        n_virtual : int
            Number of positions that are put before the tokens.
        """
        if self._returned is None:
            return "its head is not called"
        if self._calls != 1:
            return f"its head is called {self._calls} times"
        expected = (ids.shape[0], ids.shape[1] + n_virtual, self._returned.shape[-1])
        if tuple(self._returned.shape) != expected or tuple(logits.shape) != expected:
            return f"its head returns {tuple(self._returned.shape)} but its logits are {tuple(logits.shape)}"
        if logits.requires_grad:
            return "something trainable comes after its head"
        # Compare on the model's device: for a large vocabulary the host would take longer than both forward passes.
        # MPS has no float64, so the host is used there.
        z, found = (each.cpu() if each.device.type == "mps" else each for each in (self._returned, logits))
        return _form(z.double(), found.double())

    @property
    def tolerance(self) -> float:
        """The allowed difference in losses and entropies, in nats, for logits as large as those of the check."""
        # On both routes, half-precision logits are rounded by |z| 2^-9 (bf16). float32 products differ by summation.
        if self._rounded_to in (torch.float32, torch.float64):
            return 5e-6 * (10.0 + GROWN)
        return 4.0 * GROWN * torch.finfo(self._rounded_to).eps / 2


def _probe(shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Return numbers of both signs from 0.01 to 1000, plus three larger ones. Each position is the last one shifted."""
    n_rows, n_positions, n_vocab = shape
    options: dict[str, Any] = {"generator": torch.Generator("cpu").manual_seed(0), "device": "cpu"}
    sign = torch.randint(0, 2, (n_vocab,), **options) * 2.0 - 1.0
    drawn = (sign * 10.0 ** (torch.rand(n_vocab, dtype=torch.float32, **options) * 5.0 - 2.0)).to(device)
    place = torch.arange(n_vocab, device=device) + torch.arange(n_positions, device=device)[:, None]
    values = drawn[place % n_vocab].repeat(n_rows, 1, 1)
    values[0, 0, 0], values[0, 1, 0], values[0, 2, 0] = 1.0, _LARGE, _LARGE / 2
    return values


def _form(z: torch.Tensor, logits: torch.Tensor) -> HeadForm | str:
    """Measure the form on three numbers and compare all numbers with it. float64; the first row was probed."""
    at_one, at_large, at_half = (float(logits[0, p, 0]) for p in range(3))
    unknown = "its logits are not its head's output with a scale and a soft cap"
    if not all(map(math.isfinite, (at_one, at_large, at_half))) or at_one <= 0 or at_large <= 0:
        return unknown
    if abs(at_large - 2 * at_half) <= 1e-4 * at_large:
        form = HeadForm(scale=_none_if_one(at_one))
    elif abs(at_large - at_half) <= 1e-4 * at_large and at_one < at_large:
        form = HeadForm(scale=_none_if_one(at_large * math.atanh(at_one / at_large)), softcap=at_large)
    else:
        return unknown
    predicted = form.logits(z)
    # A diverged model may return NaN, on either route.
    return form if torch.allclose(logits, predicted, rtol=1e-5, atol=1e-6, equal_nan=True) else unknown


def _none_if_one(scale: float) -> float | None:
    return None if abs(scale - 1.0) < 1e-6 else scale
