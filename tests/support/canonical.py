"""One table of canonical settings, through which every method, and every reading of EntroDrop, gets the same tests."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.registry import RegularizerSettings, build_regularizers
from dynamics.validation import Settings

# fmt: off
CANONICAL: dict[str, dict[str, Any]] = {
    "entrodrop": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant"},
    "entrodrop-loss": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "target": "loss"},
    "entrodrop-both-kept": {
        "name": "entrodrop", "ratio": 0.4, "schedule": "constant", "target": "both", "normalize": "kept",
    },
    "entrodrop-random": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "replacement": "random"},
    "entrodrop-sigmoid": {"name": "entrodrop", "ratio": 0.5, "schedule": {"name": "sigmoid", "midpoint": 0.2}},
    "entrodrop-loss-signal": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "signal": "loss"},
    "entrodrop-previous": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "source": "previous_epoch"},
    "entrodrop-current": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "source": "current"},
    "entrodrop-current-sequence": {
        "name": "entrodrop", "ratio": 0.4, "schedule": "constant", "source": "current", "ranks": "sequence",
    },
    "entrodrop-document": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "ranks": "document"},
    "inverse_entrodrop": {"name": "inverse_entrodrop", "ratio": 0.4, "schedule": "constant"},
    "random_token_dropout": {"name": "random_token_dropout", "ratio": 0.4, "schedule": "constant"},
    "entrodrop-current-document": {
        "name": "entrodrop", "ratio": 0.4, "schedule": "constant", "source": "current", "ranks": "document",
    },
    "entrodrop-mean": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "replacement": "mean"},
    "entrodrop-token": {
        "name": "entrodrop", "ratio": 0.4, "schedule": "constant", "replacement": "token", "replacement_token": 7,
    },
    # Constant random masking (MEAP, arXiv 2502.07490) and random replacement (arXiv 2606.16246).
    "random_token_dropout-meap": {
        "name": "random_token_dropout", "ratio": 0.15, "schedule": "constant",
        "replacement": "mask_token", "replacement_token": 7,
    },
    "random_token_dropout-random-5": {
        "name": "random_token_dropout", "ratio": 0.05, "schedule": "constant", "replacement": "random",
    },
    "masked_input_regularization": {"name": "masked_input_regularization"},
    "masked_input_regularization-mask_token": {
        "name": "masked_input_regularization", "replacement": "mask_token", "replacement_token": 7,
    },
    "entrodrop-lowest": {
        "name": "entrodrop", "ratio": 0.4, "choice": "lowest",
        "schedule": {"name": "linear", "decreasing": True, "stairs": 3},
    },
    "entrodrop-graded": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "choice": "graded"},
    "entrodrop-threshold": {
        "name": "entrodrop", "ratio": 0.3, "schedule": "constant", "threshold": 3.8, "choice": "graded",
    },
    "entrodrop-at": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "distribution": "at_token"},
    "entrodrop-batch": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "ranks": "batch"},
    "entrodrop-current-lowest": {
        "name": "entrodrop", "ratio": 0.4, "schedule": "constant", "source": "current", "choice": "lowest",
        "distribution": "at_token",
    },
    "entrodrop-deleted": {
        "name": "entrodrop", "ratio": 0.4, "schedule": "constant", "target": "both", "replacement": "deleted",
    },
    "entrodrop-unattended": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "replacement": "unattended"},
    "entrodrop-rescaled": {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "rescale": "token"},
    "weight_decay": {"name": "weight_decay", "value": 1.0},
    "weight_decay-3.2": {"name": "weight_decay", "value": 3.2},
    "hidden_dropout": {"name": "hidden_dropout", "rate": 0.3},
    "attention_dropout": {"name": "attention_dropout", "rate": 0.3},
    "label_smoothing": {"name": "label_smoothing", "factor": 0.3},
    "neftune": {"name": "neftune", "alpha": 5.0},
    "goldfish_loss-hash": {"name": "goldfish_loss", "h": 2, "k": 3},
    "goldfish_loss-static": {"name": "goldfish_loss", "variant": "static", "k": 3, "normalize": "all"},
    "entropy_adaptive_weighting": {"name": "entropy_adaptive_weighting", "top_k": 20},
    "entropy_adaptive_weighting-axolotl": {"name": "entropy_adaptive_weighting", "normalize": "axolotl"},
    "entropy_adaptive_weighting-whole": {"name": "entropy_adaptive_weighting", "top_k": None},
    "loss_truncation": {"name": "loss_truncation", "fraction": 0.3, "warmup": 1},
    # Between the losses of the tests' model, which are far from ln 2.
    "loss_threshold": {"name": "loss_threshold", "threshold": 3.5},
    "loss_threshold-below": {"name": "loss_threshold", "counts": "below", "threshold": 4.0},
    "selective_loss": {"name": "selective_loss", "share": 0.6, "window": 2},
    "weight_averaging": {"name": "weight_averaging", "decay": 0.5},
    "weight_averaging-swa": {"name": "weight_averaging", "kind": "swa", "start": 0.5},
}
# fmt: on


def method_of(settings: dict[str, Any]) -> list[Regularizer]:
    """The method that a recipe's settings ask for, as a list of one."""
    parsed: Settings = TypeAdapter(RegularizerSettings).validate_python(settings)
    return build_regularizers([parsed])
