"""Loss and statistics directly from a model's last hidden states, inside its own forward pass.

The logits of a whole batch are by far the largest tensor of a training step. This module avoids them. It temporarily
patches the model's `forward` on the instance. A call with a `head_request` runs the model's own code up to its head.
There the fused operator replaces the head, and the call ends with the operator's answer. So everything before the head
is the model's own code. What comes after the head is measured (`head_check`) each time the patch is applied, and again
if the head changes. The request is still a call of the model: wrappers (DDP, FSDP2, PEFT) see an ordinary forward pass,
and synchronise gradients and gather parameters as usual.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics
from dynamics.training.environment.generators import evaluating
from dynamics.training.head.compiled import not_compilable, requests_past_compilation
from dynamics.training.head.head_answer import (
    HeadOutput,
    HeadRequest,
    answer_from_hidden,
    answer_from_logits,
    last_positions,
    logits_of,
)
from dynamics.training.head.head_check import HeadForm, Probe, head_as, sample_ids, state_of, uncompiled, unsuitable

__all__ = ["HeadOutput", "HeadRequest", "causal_model", "fused_head"]

log = logging.getLogger(__name__)

# Outputs that a request does not need: the model's own logits and loss, and anything but the last hidden states.
_LEFT_OUT = (
    *("labels", "shift_labels", "num_items_in_batch", "logits_to_keep", "num_logits_to_keep", "return_dict"),
    *("output_hidden_states", "output_attentions", "output_router_logits"),
)


@contextmanager
def fused_head(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> Iterator[bool]:
    """Let a model answer `head_request`. On exit, its forward is restored.

    The head is checked on each entry, with one small forward pass and one that answers a request. While the context is
    open, every request first tests whether the head has changed. If it has, it is checked again. A head that can no
    longer be fused is answered from full logits, so an answer is never wrong, and never an error of the fused route.

    Parameters
    ----------
    model : Module
        A causal language model, or a wrapper of one (DDP, FSDP2, PEFT, torch.compile).
    dtype : torch.dtype
        float32, or the autocast type of training. A request enters this autocast itself.

    Yields
    ------
    bool
        Whether the model answers without full logits. False if the head is not a plain linear layer, or if
        anything other than a scale and a soft cap follows it. Then one warning is logged per model and reason,
        and the caller must use logits.
    """
    chain, inner = wrapping(model)
    try:
        problem = unsuitable(inner) or not_compilable(chain, inner)
    except Exception as error:
        problem = _told(error)
    if problem is not None:
        _say(inner, problem)
        yield False
        return
    route = _Route(model, inner, dtype)
    before = vars(inner).get("forward")
    with requests_past_compilation(chain, inner):
        inner.forward = route.forward()
        try:
            route.check()
            if route.problem is None:
                yield True
                return
        finally:
            if before is None:
                del inner.forward
            else:
                inner.forward = before
    yield False


def causal_model(model: nn.Module) -> Any:
    """Return the causal language model inside its wrappers (DDP, PEFT, torch.compile)."""
    return wrapping(model)[1]


def wrapping(model: Any) -> tuple[list[nn.Module], Any]:
    """Return a causal model's wrappers, outermost first and the model itself last, and the model."""
    chain = [model]
    while True:
        inside: Any
        if isinstance(model, OptimizedModule):
            inside = model._orig_mod
        elif callable(get_base := getattr(model, "get_base_model", None)):
            inside = get_base()
        else:
            inside = getattr(model, "module", None)
        if not isinstance(inside, nn.Module) or inside is model:
            return chain, model
        model = inside
        chain.append(model)


# Warnings already logged for a model, so that they are not repeated every epoch.
_said: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def _say(inner: nn.Module, problem: str) -> None:
    said = _said.setdefault(inner, set())
    if problem not in said:
        said.add(problem)
        log.warning("%s: %s; losses are computed from full logits", type(inner).__name__, problem)


def _told(error: Exception) -> str:
    """Describe an exception in half a line."""
    lines = str(error).strip().splitlines()
    return f"its fused head fails ({type(error).__name__}{': ' + lines[0][:200] if lines else ''})"


class _Answered(BaseException):
    """Ends a forward pass at the head. A BaseException, so that `except Exception` in a model does not catch it."""

    def __init__(self, output: HeadOutput) -> None:
        super().__init__()
        self.output = output


class _Route:
    """The patched forward of a model, and what is known about its head."""

    def __init__(self, model: nn.Module, inner: Any, dtype: torch.dtype) -> None:
        self._model = model
        self._inner = inner
        self._dtype = dtype
        self._before = inner.forward
        self._takes_use_cache = takes(self._before, "use_cache")
        self._n_virtual = _virtual_tokens(model)
        self._probe: Probe | None = None
        self._growth: float | None = None
        self._form = HeadForm()
        self._state: Any = None
        #: Whether a request of the caller was answered since the last check.
        self._proven = False
        self.problem: str | None = None

    def forward(self) -> Any:
        """Return the method to put on the model."""
        before = self._before
        route = self

        @functools.wraps(before)
        def forward(self: Any, *args: Any, head_request: HeadRequest | None = None, **kwargs: Any) -> Any:
            if route._probe is not None:
                return route._probed(*args, **kwargs)
            if head_request is None:
                return before(*args, **kwargs)
            return route._answer(head_request, args, kwargs)

        return types.MethodType(forward, self._inner)

    # Checking the head. -------------------------------------------------------------------------

    def check(self) -> None:
        """Check again whether the head is plain, through all wrappers of the model."""
        self._ask(self._model)

    def _ask(self, called: Callable[..., Any]) -> None:
        """Set `problem` and the head's form, by calling `called` as the model."""
        self._proven = False
        try:
            self._state = state_of(self._inner)
            self.problem = unsuitable(self._inner) or self._examine(called)
        except torch.OutOfMemoryError:
            raise  # full logits would need even more memory
        except Exception as error:
            self.problem = _told(error)
        finally:
            self._probe = self._growth = None
        if self.problem is not None:
            _say(self._inner, self.problem)

    def _examine(self, called: Callable[..., Any]) -> str | None:
        device = next(self._inner.parameters()).device
        ids = sample_ids(self._inner, device)
        labels = ids.clone()
        labels[:, 0] = IGNORE_INDEX
        with torch.no_grad(), evaluating(self._model):
            # Compiling for a few tokens would take minutes.
            with torch.compiler.set_stance("force_eager"):
                probe = self._probe = Probe(uncompiled(self._inner.get_output_embeddings()))
                logits = logits_of(called(input_ids=ids))
                self._probe = None
                verdict = probe.verdict(logits, ids, self._n_virtual)
                if isinstance(verdict, str):
                    return verdict
                self._form = verdict
                self._growth = probe.growth
                request = HeadRequest(labels=labels)
                found = called(input_ids=ids, head_request=request)
                self._growth = None
        expected = token_statistics(*shift(last_positions(logits, ids)[1:], labels[1:]))
        for mine, plain in ((found.token_loss, expected.loss), (found.token_entropy, expected.entropy)):
            mine = mine[1:, 1:].flatten()
            if not torch.allclose(mine, plain.to(mine), rtol=0.0, atol=probe.tolerance, equal_nan=True):
                apart = float((mine - plain).abs().max())
                return f"its losses differ by {apart:.2g} nats from those of its logits"
        return None

    def _probed(self, *args: Any, **kwargs: Any) -> Any:
        """Run a plain forward pass with the probe as the head."""
        probe, self._probe = self._probe, None
        assert probe is not None
        # The probe turns gradients on. After the model's forward, they are off again.
        with torch.no_grad(), self._autocast(), head_as(self._inner.get_output_embeddings(), probe):
            return self._before(*args, **self._without_cache(kwargs))

    # Answering a request. -----------------------------------------------------------------------

    def _answer(self, request: HeadRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> HeadOutput:
        kwargs = {key: value for key, value in kwargs.items() if key not in _LEFT_OUT}
        if self._growth is None and state_of(self._inner) != self._state:
            self._ask(self._bare)
        with self._autocast():
            if self.problem is None:
                try:
                    output = self._fused(request, args, self._without_cache(kwargs))
                except (InputError, torch.OutOfMemoryError):
                    raise
                except Exception as error:
                    if self._proven or self._growth is not None:
                        raise
                    self.problem = _told(error)
                    _say(self._inner, self.problem)
                else:
                    self._proven = self._growth is None
                    return output
            logits = logits_of(self._before(*args, **self._without_cache(kwargs)))
            return answer_from_logits(last_positions(logits, request.labels), request)

    def _bare(self, *args: Any, head_request: HeadRequest | None = None, **kwargs: Any) -> Any:
        """Call the model inside a call of the model: the wrappers are not called a second time."""
        if head_request is None:
            return self._probed(*args, **kwargs)
        return self._answer(head_request, args, kwargs)

    def _fused(self, request: HeadRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> HeadOutput:
        head: Any = self._inner.get_output_embeddings()
        bare: Any = uncompiled(head)

        def catch(hidden: torch.Tensor) -> torch.Tensor:
            n_expected = request.labels.shape[1] + self._n_virtual
            if hidden.ndim != 3 or hidden.shape[1] != n_expected:
                raise RuntimeError(f"the head is given {tuple(hidden.shape)} for {n_expected} positions")
            if self._growth is not None:
                hidden = hidden * self._growth
            hidden = last_positions(hidden, request.labels)
            raise _Answered(answer_from_hidden(hidden, bare.weight, bare.bias, self._form, request))

        with head_as(head, catch):
            try:
                self._before(*args, **kwargs)
            except _Answered as answered:
                return answered.output
        raise RuntimeError("the head is not called")

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(next(self._inner.parameters()).device.type, dtype=self._dtype)

    def _without_cache(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs = {key: value for key, value in kwargs.items() if key != "use_cache"}
        return {**kwargs, "use_cache": False} if self._takes_use_cache else kwargs


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of that name, or takes any keyword."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _virtual_tokens(model: Any) -> int:
    """Return the number of positions that PEFT's active prompt-tuning adapter puts before the tokens."""
    for module in wrapping(model)[0]:
        config: Any = getattr(module, "active_peft_config", None)
        if getattr(config, "is_prompt_learning", False) and "PREFIX" not in str(getattr(config, "peft_type", "")):
            return int(config.num_virtual_tokens)
    return 0
