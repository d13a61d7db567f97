"""Checks every causal architecture of transformers at a small size and writes docs/zoo.md: `python -m benchmarks.zoo`.

The page says for each whether its losses come straight from hidden states, or from whole logits and why. It also says
how far loss and entropy are, at logits of about 20, from a float64 computation on the model's own logits.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.markdown import table, wrapped
from benchmarks.zoo_models import architectures, small_model, token_ids
from dynamics.training.head.fused_head import fused_head, logits_of
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens, forward_values

#: Largest difference of a loss or an entropy, in nats.
FLOAT32_TOLERANCE = 2e-4
# A bf16 number near 20 is rounded by up to 1/16, a loss is a difference of two logits, and a soft cap rounds anew.
BF16_TOLERANCE = 0.25
_SECONDS = 60
# Why some are not built, before the message of the error.
_WHY = {
    "blt": "reads bytes in patches, in four models with shapes that depend on each other",
    "gemma4_assistant": "predicts from the keys and values of another model",
    "gemma4_unified_assistant": "predicts from the keys and values of another model",
    "musicgen": "writes audio codes; the configuration is the whole model's, the class is the decoder's",
    "musicgen_melody": "writes audio codes; the configuration is the whole model's, the class is the decoder's",
}
_PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result for one architecture.

    Attributes
    ----------
    model_type, class_name : str
    fused : bool
    reason : str
        Why whole logits are used, or why there is no model; empty where it is fused.
    built : bool
    errors : dict
        Of a type's name to the largest difference in nats.
    largest_logit : float
    """

    model_type: str
    class_name: str = ""
    built: bool = False
    fused: bool = False
    reason: str = ""
    errors: dict[str, float]
    largest_logit: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every measured error is within its limit."""
        # Whole logits are the model's own: nothing is rounded in between, in bf16 either.
        exact = {name: FLOAT32_TOLERANCE for name in ("float32", "float32, whole", "bfloat16, whole")}
        limits = {**exact, "bfloat16": BF16_TOLERANCE}
        return all(self.errors[name] <= limits[name] for name in self.errors)


def examine(model_type: str) -> Finding:
    """Build an architecture small and compare its recorded values with its own logits, in float32 and bf16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _limited(_SECONDS):
                model = small_model(model_type)
        except Exception as error:
            return Finding(model_type=model_type, reason=_short(error), errors={})
        return _examined(model_type, model)


def _examined(model_type: str, model: Any) -> Finding:
    errors: dict[str, float] = {}
    reasons: list[str] = []
    fused, largest = False, 0.0
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        try:
            with _limited(_SECONDS):
                logits = own_logits(model, dtype)
        except Exception as error:
            reasons.append(f"its own code fails in {name}: {_short(error)}")
            continue
        with _heard() as said, _limited(_SECONDS):
            ids = token_ids()
            labels = ids.clone()
            labels[:, 0] = -100
            recorded = evaluate_tokens(model, ids.numpy(), labels.numpy(), batch_size=2, dtype=dtype)
            errors[name] = _largest_difference(logits, recorded.loss, recorded.entropy)
            whole = _from_whole_logits(model, labels, dtype)
            errors[f"{name}, whole"] = _largest_difference(logits, whole.loss.numpy(), whole.entropy.numpy())
            with fused_head(model, dtype=dtype) as yes:
                pass
        reasons += [line.split(": ", 1)[1].split("; losses are")[0] for line in said]
        if dtype == torch.float32:
            fused, largest = yes, float(logits.abs().max())
        elif yes != fused:
            reasons.append(f"whole logits in {name}")
    return Finding(
        model_type=model_type,
        class_name=type(model).__name__,
        built=True,
        fused=fused,
        reason="; ".join(reasons),
        errors=errors,
        largest_logit=largest,
    )


@torch.no_grad()
def own_logits(model: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return what the model itself makes of `token_ids()`, as float64."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return torch.cat([logits_of(model(input_ids=rows)) for rows in token_ids().split(2)]).double()


@torch.no_grad()
def _from_whole_logits(model: Any, labels: torch.Tensor, dtype: torch.dtype) -> TokenValues:
    """Return the values by the other route, which every model can take."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        parts = [
            forward_values(model, {"input_ids": ids}, part, fused=False)
            for ids, part in zip(token_ids().split(2), labels.split(2), strict=True)
        ]
    return TokenValues(
        loss=torch.cat([part.loss for part in parts]).float(),
        entropy=torch.cat([part.entropy for part in parts]).float(),
        correct=torch.cat([part.correct for part in parts]),
    )


def _largest_difference(logits: torch.Tensor, loss: np.ndarray, entropy: np.ndarray) -> float:
    """Of loss and entropy from those of `logits`, in nats."""
    ids = token_ids()
    log_p = logits[:, :-1].log_softmax(-1)
    expected = -log_p.gather(2, ids[:, 1:, None])[..., 0]
    expected_entropy = -(log_p.exp() * log_p).where(log_p > -torch.inf, 0.0).sum(-1)
    apart = [
        np.abs(loss[:, 1:] - expected.numpy()).max(),
        np.abs(entropy[:, 1:] - expected_entropy.numpy()).max(),
    ]
    return float(np.max(apart))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Lines that the toolkit logs, whatever the level."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener, logger = Listener(), logging.getLogger("dynamics")
    logger.addHandler(listener)
    before, logger.propagate = logger.propagate, False
    try:
        yield lines
    finally:
        logger.removeHandler(listener)
        logger.propagate = before


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[1] if len(lines) > 1 and lines[0].startswith("Class validation") else lines[0]
    return text.replace("|", "/")[:110]


def page(findings: Sequence[Finding]) -> str:
    """Return docs/zoo.md."""
    built = [finding for finding in findings if finding.built]
    fused = [finding for finding in built if finding.fused]
    intro = [
        f"`python -m benchmarks.zoo` wrote this page with transformers {transformers.__version__} and torch "
        f"{torch.__version__.split('+')[0]} on a CPU. transformers has a causal language model for {len(findings)} "
        f"model types. {len(built)} of them are built here at a small size. For {len(fused)} of these the losses come "
        "straight from hidden states. The others are recorded from whole logits. That takes more memory and is as "
        "exact.",
        "An error is the largest difference, over 69 tokens, between a recorded loss or entropy and the value computed "
        "in float64 from the model's own logits. The logits were scaled to about 20, or as far as a soft cap allows. "
        f"The limit is {FLOAT32_TOLERANCE} nats in float32 and {BF16_TOLERANCE} nats under bf16 autocast. bf16 rounds "
        "numbers near 20 by up to 1/16. This rounds the model's own logits; on a CPU it does not round those of the "
        "fused operator. The last two columns are errors of whole logits, the route that every architecture can take. "
        f"There the limit is {FLOAT32_TOLERANCE} nats in both types.",
        "The unit is 1e-6 nats. In the column *bf16* it is 1e-2 nats.",
    ]
    rows = [
        [finding.model_type, finding.class_name, *(_number(finding.errors.get(name), name) for name in _COLUMNS)]
        for finding in built
    ]
    header = ["model type", "class", "fp32", "bf16", "whole, fp32", "whole, bf16"]
    notes = [
        wrapped(f"- `{finding.model_type}`: {'' if finding.fused else 'whole logits: '}{finding.reason}", "  ")
        for finding in built
        if finding.reason or not finding.fused
    ]
    absent = [
        wrapped(f"- `{finding.model_type}`: {'; '.join([*_why(finding), finding.reason])}", "  ")
        for finding in findings
        if not finding.built
    ]
    parts = ["# Architectures", *map(wrapped, intro), "\n".join(table(header, rows))]
    parts += ["## Notes", "\n".join(notes)] if notes else []
    parts += ["## Not built here", "\n".join(absent)] if absent else []
    return "\n\n".join(parts) + "\n"


# Of an error's name, the unit in which the page writes it, in nats.
_COLUMNS = {"float32": 1e-6, "bfloat16": 1e-2, "float32, whole": 1e-6, "bfloat16, whole": 1e-6}


def _why(finding: Finding) -> list[str]:
    return [_WHY[finding.model_type]] if finding.model_type in _WHY else []


def _number(error: float | None, name: str) -> str:
    return "" if error is None else f"{error / _COLUMNS[name]:#.2g}".rstrip(".")


def main() -> None:
    """Examine all of them, or those named, and write the page if all of them were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_type", nargs="*")
    chosen = parser.parse_args().model_type
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    findings = []
    for model_type in chosen or architectures():
        finding = examine(model_type)
        findings.append(finding)
        state = "ok" if finding.built and finding.ok else "-" if not finding.built else "OFF"
        print(state, model_type, "fused" if finding.fused else "", finding.errors, finding.reason, flush=True)
    if not chosen:
        _PAGE.write_text(page(findings))
    sys.exit(any(not finding.ok for finding in findings))


if __name__ == "__main__":
    main()
