"""Learning dynamics of language models trained for many epochs on little data.

Start with `load_example` or `open_study`, then see `dynamics.plots` (figures), `dynamics.analysis` (statistics) and
`dynamics.records` (runs, studies and their tokens). `DynamicsTrainer`, `attach` and `LoopRecorder` train and record
with the methods listed here, such as `EntroDrop`.

Names load on their first use. So importing this package costs almost nothing, and records can be studied where torch is
not installed.
"""

from __future__ import annotations

# It holds little before its first use, and has the hooks that are filled below.
import dynamics.records as _records
from dynamics.faces import deferred as _deferred
from dynamics.faces import lazy_face as _lazy_face
from dynamics.version import __version__ as __version__

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    # isort: off
    from dynamics import analysis as analysis, notebook as notebook, plots as plots, records as records
    from dynamics.analysis.sums.summarising import summarize_study as summarize_study
    from dynamics.corpus.sources import load_documents as load_documents
    from dynamics.errors import DamagedRecordError as DamagedRecordError, InputError as InputError
    from dynamics.example import load_example as load_example
    from dynamics.recipe.loading import load_recipe as load_recipe
    from dynamics.records.check import check_path as check_path
    from dynamics.records.reader import open_any as open_any, open_run as open_run, open_study as open_study
    from dynamics.records.summaries.reading import open_summary as open_summary
    from dynamics.regularizers.attention_dropout import AttentionDropout as AttentionDropout
    from dynamics.regularizers.entrodrop import EntroDrop as EntroDrop
    from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting as EntropyAdaptiveWeighting
    from dynamics.regularizers.goldfish import GoldfishLoss as GoldfishLoss
    from dynamics.regularizers.hidden_dropout import HiddenDropout as HiddenDropout
    from dynamics.regularizers.inverse_entrodrop import InverseEntroDrop as InverseEntroDrop
    from dynamics.regularizers.label_smoothing import LabelSmoothing as LabelSmoothing
    from dynamics.regularizers.loss_threshold import LossThreshold as LossThreshold
    from dynamics.regularizers.loss_truncation import LossTruncation as LossTruncation
    from dynamics.regularizers.masked_input import MaskedInputRegularization as MaskedInputRegularization
    from dynamics.regularizers.neftune import NEFTune as NEFTune
    from dynamics.regularizers.random_token_dropout import RandomTokenDropout as RandomTokenDropout
    from dynamics.regularizers.selective_loss import SelectiveLoss as SelectiveLoss
    from dynamics.regularizers.weight_averaging import WeightAveraging as WeightAveraging
    from dynamics.regularizers.weight_decay import WeightDecay as WeightDecay
    from dynamics.training.attach import attach as attach
    from dynamics.training.plain_loop import LoopRecorder as LoopRecorder
    from dynamics.training.recording.token_recorder import TokenRecorder as TokenRecorder
    from dynamics.training.trainer import DynamicsTrainer as DynamicsTrainer
else:
    __all__, __getattr__, __dir__ = _lazy_face(
        __name__,
        {
            "dynamics.analysis.sums.summarising": ["summarize_study"],
            "dynamics.corpus.sources": ["load_documents"],
            "dynamics.errors": ["DamagedRecordError", "InputError"],
            "dynamics.example": ["load_example"],
            "dynamics.recipe.loading": ["load_recipe"],
            "dynamics.records.check": ["check_path"],
            "dynamics.records.reader": ["open_any", "open_run", "open_study"],
            "dynamics.records.summaries.reading": ["open_summary"],
            "dynamics.regularizers.attention_dropout": ["AttentionDropout"],
            "dynamics.regularizers.entrodrop": ["EntroDrop"],
            "dynamics.regularizers.entropy_adaptive": ["EntropyAdaptiveWeighting"],
            "dynamics.regularizers.goldfish": ["GoldfishLoss"],
            "dynamics.regularizers.hidden_dropout": ["HiddenDropout"],
            "dynamics.regularizers.inverse_entrodrop": ["InverseEntroDrop"],
            "dynamics.regularizers.label_smoothing": ["LabelSmoothing"],
            "dynamics.regularizers.loss_threshold": ["LossThreshold"],
            "dynamics.regularizers.loss_truncation": ["LossTruncation"],
            "dynamics.regularizers.masked_input": ["MaskedInputRegularization"],
            "dynamics.regularizers.neftune": ["NEFTune"],
            "dynamics.regularizers.random_token_dropout": ["RandomTokenDropout"],
            "dynamics.regularizers.selective_loss": ["SelectiveLoss"],
            "dynamics.regularizers.weight_averaging": ["WeightAveraging"],
            "dynamics.regularizers.weight_decay": ["WeightDecay"],
            "dynamics.training.attach": ["attach"],
            "dynamics.training.plain_loop": ["LoopRecorder"],
            "dynamics.training.recording.token_recorder": ["TokenRecorder"],
            "dynamics.training.trainer": ["DynamicsTrainer"],
        },
        faces=["analysis", "notebook", "plots", "records"],
    )

# The hooks of the records, which do not know the rooms on their right.
_records.load_page_builder = _deferred("dynamics.explorer.build", "build_page")
_records.load_describer = _deferred("dynamics.analysis.cards.describe", "describe")
