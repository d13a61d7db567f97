"""The notebooks run on the example and on another path, with warnings as errors, and say what their files say.

Each is executed in one kernel: first as it stands, then, in an emptied namespace, with the path of a study with one
seed, few documents and arms of other names.

    python tests/test_notebooks.py [NAME ...]

executes the notebooks, or those named, and writes their outputs into their files.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.synthetic import make_study

FOLDER = Path(__file__).parents[1] / "analysis_notebooks"
NAMES = [
    "01_first_look",
    "02_token_dynamics",
    "03_curriculum_and_ablation",
    "04_publication_figures",
    "05_your_own_trainer",
    "06_entrodrop_against_its_controls",
]
TRAINS = "05_your_own_trainer"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "version": "3"},
}
STUDY = re.compile(r"find_study\(\"example\"\)")
PAGE = re.compile(r'srcdoc="[^"]*"')
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")

# Warnings are errors, but for one of ipykernel's about itself, which it gives when it is shut down.
GUARD = """
import warnings
warnings.resetwarnings()
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=PendingDeprecationWarning, module="ipykernel")
"""
PROBE = """
import json, sys
print(json.dumps({"executable": sys.executable, "torch": "torch" in sys.modules}))
%reset -f
"""


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(sources: list[str], environment: dict[str, str] | None = None) -> list[list[Any]]:
    """Run cells in one kernel of this interpreter, on after an error, and return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    options: dict[str, Any] = {
        "timeout": 120,
        "kernel_name": "python3",
        "resources": {"metadata": {"path": str(FOLDER)}},
    }
    client = NotebookClient(notebook, allow_errors=True, coalesce_streams=True, **options)
    client.execute(env={**os.environ, **(environment or {})})
    return [cell.outputs for cell in notebook.cells]


def refresh(name: str) -> None:
    """Write new outputs into a notebook's file, with nothing that tells of the machine or the hour."""
    notebook = read(name)
    cells = code_cells(notebook)
    for count, (cell, outputs) in enumerate(
        zip(cells, execute([GUARD, *[cell.source for cell in cells]])[1:], strict=True)
    ):
        assert not complaints(outputs), f"{cell.source}\n{complaints(outputs)}"
        for output in outputs:
            if output.output_type == "execute_result":
                output.execution_count = count + 1
        cell.update(outputs=outputs, execution_count=count + 1)
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = METADATA
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")


def complaints(outputs: list[Any]) -> list[str]:
    """What a cell must not put out: errors, warnings, anything on stderr, a path of this machine."""
    found = []
    for output in outputs:
        if output.output_type == "error":
            found.append(f"{output.ename}: {output.evalue}")
        elif output.output_type == "stream" and output.name == "stderr":
            found.append(f"stderr: {output.text}")
        found += [
            f"a path: {text[:200]}" for text in texts_of([output]) if re.search(r"/(home|root|tmp|work|Users)/", text)
        ]
    return found


def texts_of(outputs: list[Any]) -> list[str]:
    """The text that a cell puts out; neither pictures nor the names of what displays them."""
    found = []
    for output in outputs:
        if output.output_type == "stream":
            found.append(output.text)
        else:
            data = output.get("data", {})
            found += [data[kind] for kind in ("text/markdown", "text/html") if kind in data]
            if set(data) == {"text/plain"}:
                found.append(data["text/plain"])
    return found


def pictures_of(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def same(committed: list[str], fresh: list[str], relative: float, absolute: float) -> bool:
    """Whether texts are equal but for numbers, and these nearly."""
    before, after = "\n".join(committed), "\n".join(fresh)
    if NUMBER.sub("#", before) != NUMBER.sub("#", after):
        return False
    pairs = zip(NUMBER.findall(before), NUMBER.findall(after), strict=True)
    values = [[float(each.replace(",", "").replace("−", "-")) for each in pair] for pair in pairs]
    return all(math.isclose(a, b, rel_tol=relative, abs_tol=absolute) for a, b in values)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No settings of the user's, no network, no device, one thread."""
    return {
        "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


@pytest.fixture(scope="session")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dropout = {"name": "entrodrop", "ratio": 0.2, "pool": 0.5}
    arms = {"plain": {}, "low | dropped": {"regularizers": [dropout]}}
    return make_study(tmp_path_factory.mktemp("other") / "mine", arms=arms, seeds=(7,), n_documents=24, epochs=3)


# One test for both paths: they share a kernel, which the workers of a parallel session cannot.
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_the_example_as_committed_and_on_another_path(
    name: str, environment: dict[str, str], other_path: Path
) -> None:
    cells = code_cells(read(name))
    sources = [cell.source for cell in cells]
    assert sum(bool(STUDY.search(source)) for source in sources) == 1, "one place names the study"
    elsewhere = [STUDY.sub(lambda _: f"find_study({str(other_path)!r})", source) for source in sources]
    outputs = execute([GUARD, *sources, PROBE, GUARD, *elsewhere, PROBE], environment)
    half = len(sources) + 2
    on_example, on_other = outputs[1 : half - 1], outputs[half + 1 : -1]
    for probe in (outputs[half - 1], outputs[-1]):
        said = json.loads(probe[0].text)
        assert said["executable"] == sys.executable
        assert said["torch"] == (name == TRAINS)

    # Training takes other roundings on another machine; the analysis of records does not.
    tolerance = (0.1, 0.5) if name == TRAINS else (0.005, 0.002)
    for cell, fresh in zip(cells, on_example, strict=True):
        assert not complaints(fresh), f"on the example:\n{cell.source}"
        stale = f"not as committed; run tests/test_notebooks.py:\n{cell.source}"
        assert pictures_of(cell.outputs) == pictures_of(fresh), stale
        before, after = texts_of(cell.outputs), texts_of(fresh)
        if name == TRAINS:  # the page of a trained run holds its losses to the last bit
            before, after = ([PAGE.sub("", text) for text in texts] for texts in (before, after))
        assert same(before, after, *tolerance), stale

    for source, fresh in zip(elsewhere, on_other, strict=True):
        assert not complaints(fresh), f"on another path:\n{source}"
    if name != TRAINS:
        assert "Only 12 documents of 'validation' are recorded" in "".join(texts_of(on_other[0]))


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_whole_and_small(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_000_000
    assert notebook.metadata == METADATA
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(cells[0].source.splitlines()) <= 4, "set-up takes four lines at most"
    assert not any(cell.metadata for cell in notebook.cells)
    for cell in cells:
        assert not complaints(cell.outputs)
    assert pictures_of([output for cell in cells for output in cell.outputs]) >= 1


def test_all_notebooks_are_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


def test_a_warning_fails(environment: dict[str, str]) -> None:
    warning = "import warnings\nwarnings.warn('planted', stacklevel=1)"
    outputs = execute([GUARD, warning, "import sys\nprint('planted', file=sys.stderr)", "print(1)"], environment)
    assert complaints(outputs[1]) == ["UserWarning: planted"]
    assert complaints(outputs[2]) == ["stderr: planted\n"]
    assert not complaints(outputs[3])


def test_texts_are_compared_by_their_words_and_numbers() -> None:
    assert same(["loss 4.401 [4.1, 4.9]"], ["loss 4.402 [4.1, 4.9]"], 0.005, 0.002)
    assert not same(["loss 4.401"], ["loss 4.501"], 0.005, 0.002)
    assert not same(["loss 4.401"], ["loses 4.401"], 0.005, 0.002)
    assert not same(["loss 4.401"], [], 0.005, 0.002)


if __name__ == "__main__":
    for each in sys.argv[1:] or NAMES:
        refresh(each)
