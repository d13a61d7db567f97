"""The public names: all there, loaded on first use, cheap to import, and clear without torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import dynamics

ROOT = Path(dynamics.__file__).parents[1]

NAMES = {
    "open_run": "dynamics.records.reader",
    "open_study": "dynamics.records.reader",
    "open_any": "dynamics.records.reader",
    "open_summary": "dynamics.records.summaries.reading",
    "summarize_study": "dynamics.analysis.sums.summarising",
    "check_path": "dynamics.records.check",
    "InputError": "dynamics.errors",
    "DamagedRecordError": "dynamics.errors",
    "load_recipe": "dynamics.recipe.loading",
    "EntroDrop": "dynamics.regularizers.entrodrop",
    "InverseEntroDrop": "dynamics.regularizers.inverse_entrodrop",
    "RandomTokenDropout": "dynamics.regularizers.random_token_dropout",
    "WeightAveraging": "dynamics.regularizers.weight_averaging",
    "WeightDecay": "dynamics.regularizers.weight_decay",
    "HiddenDropout": "dynamics.regularizers.hidden_dropout",
    "LabelSmoothing": "dynamics.regularizers.label_smoothing",
    "NEFTune": "dynamics.regularizers.neftune",
    "AttentionDropout": "dynamics.regularizers.attention_dropout",
    "EntropyAdaptiveWeighting": "dynamics.regularizers.entropy_adaptive",
    "GoldfishLoss": "dynamics.regularizers.goldfish",
    "LossThreshold": "dynamics.regularizers.loss_threshold",
    "LossTruncation": "dynamics.regularizers.loss_truncation",
    "MaskedInputRegularization": "dynamics.regularizers.masked_input",
    "SelectiveLoss": "dynamics.regularizers.selective_loss",
    "DynamicsTrainer": "dynamics.training.trainer",
    "LoopRecorder": "dynamics.training.plain_loop",
    "TokenRecorder": "dynamics.training.recording.token_recorder",
    "attach": "dynamics.training.attach",
    "load_documents": "dynamics.corpus.sources",
    "load_example": "dynamics.example",
}
FACES = ["analysis", "notebook", "plots", "records"]
WITHOUT_TORCH = [
    "open_run",
    "open_study",
    "open_any",
    "open_summary",
    "summarize_study",
    "check_path",
    "InputError",
    "DamagedRecordError",
    "load_recipe",
    "load_documents",
]
METHODS = {name for name, module in NAMES.items() if module.startswith("dynamics.regularizers.")}
WITH_TORCH = ["DynamicsTrainer", "LoopRecorder", "TokenRecorder", "attach"]


def python(code: str) -> str:
    """Run code in a fresh interpreter, from the root of the project, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_names_every_public_name() -> None:
    assert dynamics.__all__ == sorted([*NAMES, *FACES])
    assert set(dynamics.__all__) <= set(dir(dynamics))
    assert dynamics.__version__ == "0.1.0"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_what_its_module_defines(name: str) -> None:
    module = NAMES[name]
    if name not in {*WITHOUT_TORCH, *METHODS}:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    value = getattr(dynamics, name)
    assert value is getattr(importlib.import_module(module), name)
    assert value.__module__ == module
    assert vars(dynamics)[name] is value  # kept: the second use costs nothing


def test_the_methods_are_those_of_the_registry() -> None:
    from dynamics.regularizers.registry import METHODS as methods

    assert {method.__name__: method.__module__ for method in methods.values()} == {
        name: NAMES[name] for name in METHODS
    }


def test_importing_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import dynamics; print(sorted(set(sys.modules) - before))"
    # `dynamics.records` is a face with the hook of `Run.explore`, `dynamics.faces` what makes faces.
    loaded = "'dynamics', 'dynamics.faces', 'dynamics.records', 'dynamics.version'"
    assert python(code) in (f"[{loaded}]", f"['__future__', {loaded}]")


def test_importing_is_quick() -> None:
    code = "import time; start = time.perf_counter(); import dynamics; print(time.perf_counter() - start)"
    assert min(float(python(code)) for _ in range(3)) < 0.15


def test_reading_loads_no_torch() -> None:
    code = (
        "import sys, dynamics; dynamics.open_run, dynamics.check_path; "
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'seaborn', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_every_run_can_be_explored_however_it_was_opened() -> None:
    """The records do not know the explorer; whoever imports any of the package has run its face, which does."""
    code = (
        "import sys\nfrom dynamics.records import load_page_builder\nfrom dynamics.records.reader import open_run\n"
        "assert 'dynamics.explorer.build' not in sys.modules\nprint(load_page_builder().__module__)"
    )
    assert python(code) == "dynamics.explorer.build"


@pytest.mark.parametrize(
    "module",
    [
        "dynamics.cli",
        "dynamics.regularizers.registry",
        "dynamics.recipe.training_keys",
        "dynamics.analysis.tokens.drop_pools",
        "dynamics.plots.families.curriculum",
        "dynamics.study",
        "dynamics.recipe.loading",
        "dynamics.records.exporting.run_export",
        "dynamics.analysis.comparisons.arm_comparisons",
        "dynamics.plots.saving",
        "dynamics.explorer.build",
        "dynamics.example",
    ],
)
def test_importing_what_needs_no_torch_loads_none(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print(sorted({'torch', 'transformers', 'datasets', 'accelerate', 'dynamics.training'} & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_methods_are_made_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from dynamics.regularizers.registry import METHODS\n"
        "from dynamics import EntroDrop\n"
        "print(EntroDrop(ratio=0.2).ratio(0.5), len(METHODS))"
    )
    from dynamics.regularizers.registry import METHODS as methods

    assert python(code) == f"0.1 {len(methods)}"


def test_an_unknown_name_is_an_attribute_error_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'open_runs'; did you mean 'open_run'"):
        _ = dynamics.open_runs
    with pytest.raises(AttributeError, match="no attribute 'zzz'$"):
        _ = dynamics.zzz
    with pytest.raises(ImportError, match="cannot import name 'EntropyDrop'"):
        from dynamics import EntropyDrop  # type: ignore[attr-defined]  # noqa: F401


def test_submodules_are_importable_in_every_way() -> None:
    code = "from dynamics import errors; import dynamics.records.schema as s; print(s.__name__)"
    assert python(code) == "dynamics.records.schema"


def test_the_light_names_load_where_torch_is_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dynamics import open_run, check_path, InputError, open_study, open_any\n"
        "print(open_run.__name__)"
    )
    assert python(code) == "open_run"


@pytest.mark.parametrize("name", WITH_TORCH)
@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_name_that_needs_torch_says_so(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(module: str) -> None:
        raise ModuleNotFoundError(f"No module named '{missing}.nn'", name=f"{missing}.nn")

    monkeypatch.delitem(vars(dynamics), name, raising=False)
    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ImportError, match=rf"dynamics\.{name} needs torch and transformers"):
        getattr(dynamics, name)


def test_any_other_missing_module_is_not_blamed_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(module: str) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.delitem(vars(dynamics), "open_run", raising=False)
    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="No module named 'numpy'"):
        _ = dynamics.open_run


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_real_torch_name_where_torch_is_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import dynamics\n"
        "try: dynamics.DynamicsTrainer\n"
        "except ImportError as error: print(error)"
    )
    assert "dynamics.DynamicsTrainer needs torch" in python(code)
