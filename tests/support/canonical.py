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
    "weight_decay": {"name": "weight_decay", "value": 1.0},
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
    "weight_averaging": {"name": "weight_averaging", "decay": 0.5},
    "weight_averaging-swa": {"name": "weight_averaging", "kind": "swa", "start": 0.5},
}
# fmt: on


def method_of(settings: dict[str, Any]) -> list[Regularizer]:
    """The method that a recipe's settings ask for, as a list of one."""
    parsed: Settings = TypeAdapter(RegularizerSettings).validate_python(settings)
    return build_regularizers([parsed])
