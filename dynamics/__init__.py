"""Learning dynamics of language models trained for many epochs on little data.

The names below load on first use, so that importing this package costs almost nothing and the
records can be studied where torch is not installed.
"""

from __future__ import annotations

# Holds nothing but the place for `Run.explore`'s page, filled below.
import dynamics.records as _records
from dynamics.version import __version__ as __version__

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynamics.analysis.sums.summarising import summarize_study
    from dynamics.corpus.sources import load_documents
    from dynamics.errors import DamagedRecordError, InputError
    from dynamics.example import load_example
    from dynamics.recipe.loading import load_recipe
    from dynamics.records.check import check_path
    from dynamics.records.reader import open_any, open_run, open_study
    from dynamics.records.summaries.reading import open_summary
    from dynamics.regularizers.attention_dropout import AttentionDropout
    from dynamics.regularizers.entrodrop import EntroDrop
    from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting
    from dynamics.regularizers.goldfish import GoldfishLoss
    from dynamics.regularizers.hidden_dropout import HiddenDropout
    from dynamics.regularizers.inverse_entrodrop import InverseEntroDrop
    from dynamics.regularizers.label_smoothing import LabelSmoothing
    from dynamics.regularizers.loss_threshold import LossThreshold
    from dynamics.regularizers.loss_truncation import LossTruncation
    from dynamics.regularizers.masked_input import MaskedInputRegularization
    from dynamics.regularizers.neftune import NEFTune
    from dynamics.regularizers.random_token_dropout import RandomTokenDropout
    from dynamics.regularizers.selective_loss import SelectiveLoss
    from dynamics.regularizers.weight_averaging import WeightAveraging
    from dynamics.regularizers.weight_decay import WeightDecay
    from dynamics.training.attach import attach
    from dynamics.training.plain_loop import LoopRecorder
    from dynamics.training.recording.token_recorder import TokenRecorder
    from dynamics.training.trainer import DynamicsTrainer

__all__ = [
    "AttentionDropout",
    "DamagedRecordError",
    "DynamicsTrainer",
    "EntroDrop",
    "EntropyAdaptiveWeighting",
    "GoldfishLoss",
    "HiddenDropout",
    "InputError",
    "InverseEntroDrop",
    "LabelSmoothing",
    "LoopRecorder",
    "LossThreshold",
    "LossTruncation",
    "MaskedInputRegularization",
    "NEFTune",
    "RandomTokenDropout",
    "SelectiveLoss",
    "TokenRecorder",
    "WeightAveraging",
    "WeightDecay",
    "attach",
    "check_path",
    "load_documents",
    "load_example",
    "load_recipe",
    "open_any",
    "open_run",
    "open_study",
    "open_summary",
    "summarize_study",
]

_MODULES = {
    "AttentionDropout": "dynamics.regularizers.attention_dropout",
    "DamagedRecordError": "dynamics.errors",
    "DynamicsTrainer": "dynamics.training.trainer",
    "EntroDrop": "dynamics.regularizers.entrodrop",
    "EntropyAdaptiveWeighting": "dynamics.regularizers.entropy_adaptive",
    "GoldfishLoss": "dynamics.regularizers.goldfish",
    "HiddenDropout": "dynamics.regularizers.hidden_dropout",
    "InputError": "dynamics.errors",
    "InverseEntroDrop": "dynamics.regularizers.inverse_entrodrop",
    "LabelSmoothing": "dynamics.regularizers.label_smoothing",
    "LoopRecorder": "dynamics.training.plain_loop",
    "LossThreshold": "dynamics.regularizers.loss_threshold",
    "LossTruncation": "dynamics.regularizers.loss_truncation",
    "MaskedInputRegularization": "dynamics.regularizers.masked_input",
    "NEFTune": "dynamics.regularizers.neftune",
    "RandomTokenDropout": "dynamics.regularizers.random_token_dropout",
    "SelectiveLoss": "dynamics.regularizers.selective_loss",
    "TokenRecorder": "dynamics.training.recording.token_recorder",
    "WeightAveraging": "dynamics.regularizers.weight_averaging",
    "WeightDecay": "dynamics.regularizers.weight_decay",
    "attach": "dynamics.training.attach",
    "check_path": "dynamics.records.check",
    "load_documents": "dynamics.corpus.sources",
    "load_example": "dynamics.example",
    "load_recipe": "dynamics.recipe.loading",
    "open_any": "dynamics.records.reader",
    "open_run": "dynamics.records.reader",
    "open_study": "dynamics.records.reader",
    "open_summary": "dynamics.records.summaries.reading",
    "summarize_study": "dynamics.analysis.sums.summarising",
}


def _load_page_builder() -> object:
    """Return what makes the page of `Run.explore`: here the records meet the explorer, which they do not know."""
    from dynamics.explorer.build import build_page

    return build_page


def _load_describer() -> object:
    """Return what makes the picture of a run or a study, as `_load_page_builder` does."""
    from dynamics.analysis.cards.describe import describe

    return describe


_records.load_page_builder = _load_page_builder
_records.load_describer = _load_describer

# What the torch-free installation leaves out.
_TRAINING_PACKAGES = ("torch", "transformers", "accelerate", "datasets")


def __getattr__(name: str) -> object:
    """Import the module that holds a public name when it is first asked for (PEP 562)."""
    if name not in _MODULES:
        message = f"module 'dynamics' has no attribute {name!r}"
        if not name.startswith("_"):
            from dynamics.errors import nearest

            message += nearest(name, __all__)
        raise AttributeError(message)
    import importlib

    try:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _TRAINING_PACKAGES:
            raise
        raise ImportError(
            f"dynamics.{name} needs torch and transformers, and {error.name!r} is not installed: "
            "pip install torch transformers accelerate. Records, analysis and plots work without."
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
