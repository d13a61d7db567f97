"""What became of each forward pass at the model's head: answered by the operator, or made into whole logits."""

from __future__ import annotations

import functools
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from transformers import Qwen3ForCausalLM

from dynamics.ops import linear_statistics
from dynamics.training.head import head_answer


class HeadWatch:
    """Counts, while it is open, the passes over batches of a Qwen3 model; the checks' own small ones are left out.

    Parameters
    ----------
    block : int
        Tokens a sequence, other than those that a check of the head uses.

    Attributes
    ----------
    fused, whole : Counter
        Passes that the operator answered, and passes that returned logits of (B, T, V); under "training" where
        gradients were on, else under "measuring". Logits of one row alone, by which a trainer asks what a model's own
        loss holds, do not count.
    types : dict of str to set of str
        In which the operator multiplied, under the same two names.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._patches = ExitStack()
        self.fused: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self.types: dict[str, set[str]] = {}
        self._means: list[torch.Tensor] = []

    def __enter__(self) -> HeadWatch:
        self._patches.enter_context(
            mock.patch.object(
                head_answer, "linear_token_statistics", self._operator(head_answer.linear_token_statistics)
            )
        )
        self._patches.enter_context(
            mock.patch.object(Qwen3ForCausalLM, "forward", self._forward(Qwen3ForCausalLM.forward))
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._patches.close()

    @property
    def training_losses(self) -> list[float]:
        """Mean loss in nats of each training batch that the operator answered for."""
        return [float(mean) for mean in self._means]

    def _operator(self, own: Any) -> Any:
        def operator(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, **given: Any) -> Any:
            found = own(hidden, weight, targets, **given)
            if len(hidden) % (self._block - 1) == 0:
                self.fused[_phase()] += 1
                multiplied = linear_statistics._compute_type(hidden, weight, given.get("bias"))
                self.types.setdefault(_phase(), set()).add(str(multiplied).removeprefix("torch."))
                if torch.is_grad_enabled():
                    self._means.append(found.loss.detach().nanmean())
            return found

        return operator

    def _forward(self, own: Any) -> Any:
        watch = self

        @functools.wraps(own)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            output = own(self, *args, **kwargs)
            if output.logits.shape[0] > 1 and output.logits.shape[1] == watch._block:
                watch.whole[_phase()] += 1
            return output

        return forward


def _phase() -> str:
    return "training" if torch.is_grad_enabled() else "measuring"
