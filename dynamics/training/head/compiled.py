"""Compiled models on the fused route: the decoder is compiled, the code around the head's operator is not.

torch.compile wraps the whole model in an OptimizedModule. Tracing the head's operator would break the graph, and
bypassing the OptimizedModule would leave nothing compiled. Therefore a request bypasses the OptimizedModule, and the
decoder alone is compiled with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule


def not_compilable(chain: Sequence[nn.Module], inner: Any) -> str | None:
    """Return why a compiled model cannot take the fused route; None if it can, or is not compiled.

    Parameters
    ----------
    chain : sequence of Module
        The model's wrappers, outermost first, and the model itself.
    inner : Module
    """
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in chain):
        return "it is compiled in place with compile(); use torch.compile(model) or torch_compile=True"
    if any(isinstance(module, OptimizedModule) for module in chain) and _decoder(inner) is None:
        return "it is compiled and its decoder is unknown"
    return None


@contextmanager
def requests_past_compilation(chain: Sequence[nn.Module], inner: Any) -> Iterator[None]:
    """Let calls with a `head_request` bypass each OptimizedModule of `chain`; compile the decoder like the first."""
    compiled = [module for module in chain if isinstance(module, OptimizedModule)]
    if not compiled:
        yield
        return
    decoder = _decoder(inner)
    assert decoder is not None, "not_compilable() comes first"
    with ExitStack() as stack:
        for module in compiled:
            stack.enter_context(_led_past(module))
        before = decoder._compiled_call_impl
        if before is None:
            decoder._compiled_call_impl = compiled[0].dynamo_ctx(decoder._call_impl)
        try:
            yield
        finally:
            decoder._compiled_call_impl = before


def _decoder(inner: Any) -> nn.Module | None:
    decoder = getattr(inner, "get_decoder", lambda: None)()
    if not isinstance(decoder, nn.Module) or decoder is inner:
        decoder = getattr(inner, getattr(inner, "base_model_prefix", ""), None)
    return decoder if isinstance(decoder, nn.Module) and decoder is not inner else None


@contextmanager
def _led_past(module: OptimizedModule) -> Iterator[None]:
    before = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("head_request") is None:
            return before(*args, **kwargs)
        return module._orig_mod(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        module.forward = before
