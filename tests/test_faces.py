"""The public faces: each name loads on first use, is listed and seen by type checkers, and unknown names get a hint."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import pytest

import dynamics
from dynamics.faces import FACES, deferred, lazy_face

ROOT = Path(dynamics.__file__).parents[1]

#: Faces that are being made. Empty when they are done.
UNFINISHED: tuple[str, ...] = ()
FINISHED = [face for face in FACES if face not in UNFINISHED]

TRAINING = ("torch", "transformers", "datasets", "accelerate", "dynamics.training")
HEAVY = (*TRAINING, "numpy", "scipy", "matplotlib", "seaborn", "pandas", "xarray", "IPython")


def python(code: str) -> str:
    """Run code in a fresh interpreter, from the root of the project, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def for_type_checkers(face: str) -> dict[str, str]:
    """Return the names that a face's ``if TYPE_CHECKING`` re-exports (``X as X``), with their modules."""
    path = importlib.import_module(face).__file__
    assert path is not None
    return {
        alias.name: node.module
        for block in ast.parse(Path(path).read_text(encoding="utf-8")).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }


@pytest.mark.parametrize("face", FINISHED)
def test_type_checkers_and_python_see_the_same_names(face: str) -> None:
    module = importlib.import_module(face)
    told = for_type_checkers(face)
    assert sorted(told) == module.__all__
    assert set(told) <= set(dir(module))
    for name, source in told.items():
        if source.startswith("dynamics.training"):
            pytest.importorskip("torch")
        holder = importlib.import_module(source)
        expected = getattr(holder, name) if name in vars(holder) else importlib.import_module(f"{source}.{name}")
        assert getattr(module, name) is expected
        assert vars(module)[name] is expected  # kept: the second use costs nothing


def test_a_name_has_one_public_place() -> None:
    """But for a figure and the numbers that it draws, which have one name: `plots.calibration`."""
    places: dict[str, list[str]] = {}
    for face in FINISHED:
        for name in importlib.import_module(face).__all__:
            if face != "dynamics.plots":
                places.setdefault(name, []).append(face)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_the_faces_load_nothing_heavy_until_asked() -> None:
    code = f"""
    import sys, dynamics
    faces = dynamics.analysis, dynamics.plots, dynamics.records
    [dir(face) for face in (dynamics, *faces)]
    hasattr(dynamics.analysis, "no_such_name")
    print(sorted(set({HEAVY}) & set(sys.modules)))
    """
    assert python(code) == "[]"


def test_statistics_and_records_load_no_torch() -> None:
    code = f"""
    import sys
    from dynamics import analysis, records
    [getattr(face, name) for face in (analysis, records) for name in face.__all__]
    print(sorted(set({TRAINING}) & set(sys.modules)))
    """
    assert python(code) == "[]"


def test_names_are_reached_from_the_root_in_every_way() -> None:
    code = """
    import dynamics
    first = dynamics.analysis.compare_arms
    from dynamics.analysis import compare_arms
    from dynamics.analysis.comparisons.arm_comparisons import compare_arms as deep
    import dynamics.analysis as analysis
    names = {}
    exec("from dynamics.analysis import *", names)
    assert first is compare_arms is deep is analysis.compare_arms is names["compare_arms"]
    assert set(analysis.__all__) <= set(names)
    print(dynamics.records.Run.__module__)
    """
    assert python(code) == "dynamics.records.reader"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("dynamics.Run", "module 'dynamics' has no attribute 'Run'; it is dynamics.records.Run"),
        ("dynamics.compare_arms", "module 'dynamics' has no attribute 'compare_arms'; it is dynamics.analysis.compare_arms"),
        ("dynamics.compare_arm", "module 'dynamics' has no attribute 'compare_arm'; did you mean dynamics.analysis.compare_arms?"),
        ("dynamics.analysis.open_run", "module 'dynamics.analysis' has no attribute 'open_run'; it is dynamics.open_run"),
        ("dynamics.analysis.compare_arm", "module 'dynamics.analysis' has no attribute 'compare_arm'; did you mean 'compare_arms'?"),
        ("dynamics.records.Runs", "module 'dynamics.records' has no attribute 'Runs'; did you mean 'Run'?"),
        ("dynamics.analysis.zzz", "module 'dynamics.analysis' has no attribute 'zzz'"),
        ("dynamics.analysis._repr_html_", "module 'dynamics.analysis' has no attribute '_repr_html_'"),
    ],
)  # fmt: skip
def test_an_unknown_name_says_where_it_is_or_which_is_near(asked: str, said: str) -> None:
    with pytest.raises(AttributeError) as caught:
        eval(asked, {"dynamics": dynamics})
    assert str(caught.value) == said


def test_a_face_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    face = ModuleType("some_face")
    monkeypatch.setitem(sys.modules, "some_face", face)
    names, attribute, listed = lazy_face("some_face", {"json": ["dumps"], "fractions": ["Fraction"]})
    assert names == ["Fraction", "dumps"]
    assert [name for name in listed() if not name.startswith("__")] == names
    import json

    assert attribute("dumps") is json.dumps is vars(face)["dumps"]
    assert "Fraction" not in vars(face)


def test_a_deferred_name_loads_when_it_is_called() -> None:
    code = """
    import sys
    from dynamics.faces import deferred
    load = deferred("fractions", "Fraction")
    assert "fractions" not in sys.modules
    print(load().__name__)
    """
    assert python(code) == "Fraction"
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        deferred("no_such_module", "name")()


USER = """
import dynamics
from dynamics.analysis import Comparison, bucket_map
from dynamics.records import Run, Study

study: Study = dynamics.open_study("study")
rows: list[Comparison] = dynamics.analysis.compare_arms(study, quantity="best")
run: Run = study.run("baseline", 0)
records: dynamics.records.Records = run.records("validation")
reveal_type(bucket_map(study)[0])  # note: "dynamics.analysis.estimands.bucket_maps.BucketMap"
reveal_type(dynamics.EntroDrop(ratio=0.2))  # note: "dynamics.regularizers.entrodrop.EntroDrop"
dynamics.analysis.compare_armz  # error: Module has no attribute "compare_armz"
dynamics.analysis.compare_arms(study, quantitee="best")  # error: Unexpected keyword argument "quantitee"
dynamics.EntroDrop(rate=0.2)  # error: Unexpected keyword argument "rate"
"""


#: What the packages beneath know of types is of no matter here, and takes a minute to read.
MYPY = """
[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,transformers.*,datasets.*,accelerate.*,numpy.*,scipy.*,xarray.*,matplotlib.*,safetensors.*,tokenizers.*]
follow_imports = skip
"""


def test_strict_mypy_sees_the_names_of_a_user_and_finds_wrong_ones(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    config = tmp_path / "mypy.ini"
    config.write_text(MYPY, encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(USER, encoding="utf-8")
    options = ["--no-incremental", "--no-error-summary", "--cache-dir", str(tmp_path)]
    output, errors, _ = api.run(["--config-file", str(config), *options, str(script)])
    assert errors == ""
    said = [line.split(":", 3)[1:] for line in output.splitlines()]
    expected = {
        str(at): line.partition("  # ")[2].split(": ") for at, line in enumerate(USER.splitlines(), 1) if "  # " in line
    }
    assert {line for line, kind, _ in said} == set(expected), output
    for line, kind, message in said:
        if message.rstrip().endswith('"') and " defined in " in message:  # newer versions of mypy add where
            continue
        assert kind.strip() == expected[line][0], output
        assert expected[line][1] in message, output


# ------------------------------------------------------------------------------------------- what every public name says

#: Made by the functions that open records, and never by a user: their docstrings list attributes.
OPENED = {"Run", "Study", "Records", "Summary", "SummaryRun", "SummaryRecords", "SplitSums"}


def public() -> list[tuple[str, str]]:
    return [
        (face, name) for face in FINISHED for name in importlib.import_module(face).__all__ if name not in FACES_OF_ROOT
    ]


FACES_OF_ROOT = {face.rpartition(".")[2] for face in FACES}


def value_of(face: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(face), name)
    except ImportError:
        pytest.skip("torch is not installed")


def numpydoc_names(docstring: str, *titles: str) -> set[str]:
    """Return the names that sections of a numpydoc docstring list: those before " : " on lines without indent."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", docstring, flags=re.M)
    listed = set()
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title in titles:
            heads = [line.partition(" : ")[0] for line in body.splitlines() if line and not line[0].isspace()]
            listed |= {name.strip(" *`") for head in heads for name in head.split(",")}
    return listed


def undocumented(value: Any) -> list[str]:
    """Return what the docstring of a public function or class leaves out: itself, or parameters by their names."""
    docstring = inspect.getdoc(value)
    own = not isinstance(value, type) or "__doc__" in vars(value)
    generated = (
        isinstance(value, type) and dataclasses.is_dataclass(value) and str(docstring).startswith(f"{value.__name__}(")
    )
    if not docstring or not own or generated:
        return ["a docstring"]
    if isinstance(value, type) and (value.__name__ in OPENED or getattr(value, "_is_protocol", False)):
        return []
    if isinstance(value, type) and issubclass(value, Exception):
        return []
    titles = ("Parameters", "Attributes") if isinstance(value, type) else ("Parameters",)
    listed = numpydoc_names(docstring, *titles)
    taken = [
        parameter.name
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return [name for name in taken if name not in listed]


def raised(value: Any) -> set[str]:
    """Return the errors that a function raises in its own body."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    return {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        if node.exc.func.id.endswith("Error")  # functions that make an error have other names
    }


@pytest.mark.parametrize(("face", "name"), public())
def test_a_public_name_is_documented_with_all_that_it_takes_and_raises(face: str, name: str) -> None:
    value = value_of(face, name)
    if not callable(value):  # a constant has its comment
        return
    assert undocumented(value) == []
    docstring = inspect.getdoc(value) or ""
    if inspect.isfunction(value):
        returned = value.__annotations__.get("return") not in (None, "None")
        says = re.match("Return|Whether|Open", docstring) or "Returns\n---" in docstring
        assert says or not returned
        assert raised(value) <= numpydoc_names(docstring, "Raises")


def test_the_test_of_documentation_finds_what_is_left_out() -> None:
    def half(one: int, two: int) -> int:
        """Return.

        Parameters
        ----------
        one : int
        """
        raise ValueError(one, two)

    def nothing() -> None: ...

    @dataclasses.dataclass
    class Fields:
        """Some.

        Attributes
        ----------
        one, two : int
        """

        one: int
        two: int
        three: int

    assert undocumented(half) == ["two"] and raised(half) == {"ValueError"}
    assert undocumented(nothing) == ["a docstring"]
    assert undocumented(Fields) == ["three"]


# ------------------------------------------------------------------------------------------------ no public name is missing


def types_in(annotation: Any) -> Iterator[type]:
    """Yield the classes in an annotation: of unions, containers and callables too."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for part in get_args(annotation):
        if isinstance(part, list):
            part = tuple[tuple(part)]  # type: ignore[misc]
        yield from types_in(part)


@functools.cache
def for_type_checkers_alone() -> dict[str, Any]:
    """Return what annotations name that modules import only for type checkers."""
    import pandas
    import xarray

    faces = [importlib.import_module(face) for face in ("dynamics.analysis", "dynamics.records")]
    return {
        "pandas": pandas,
        "xarray": xarray,
        **{name: getattr(face, name) for face in faces for name in face.__all__},
    }


def met_by_a_user(value: Any) -> set[type]:
    """Return the library's classes that a public name takes or returns: a class also by its fields and methods."""
    parts = [value]
    if isinstance(value, type):
        for name in dir(value):
            member = inspect.getattr_static(value, name)
            member = (
                getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
            )
            if not name.startswith("_") and inspect.isfunction(member):
                parts.append(member)
    found = set()
    for part in parts:
        hints = get_type_hints(part, localns=for_type_checkers_alone())
        found |= {
            one
            for name, hint in hints.items()
            if not name.startswith("_") and get_origin(hint) is not ClassVar  # how a class shows itself is its own
            for one in types_in(hint)
            if one.__module__.startswith("dynamics.")
        }
    return found


@pytest.mark.parametrize("face", ["dynamics.analysis", "dynamics.records"])
def test_every_class_that_a_user_takes_or_gets_is_in_a_face(face: str) -> None:
    listed = {name for one in FACES for name in getattr(importlib.import_module(one), "__all__", ())}
    missing: dict[str, list[str]] = {}
    for name in importlib.import_module(face).__all__:
        value = value_of(face, name)
        if callable(value):
            for one in met_by_a_user(value):
                if one.__name__ not in listed:
                    missing.setdefault(f"{one.__module__}.{one.__name__}", []).append(name)
    assert missing == {}


def test_the_test_of_missing_names_finds_one() -> None:
    from dynamics.analysis.sums.kept_sums import KeptSums

    def function(data: list[KeptSums | None]) -> None: ...

    function.__annotations__["data"] = list[KeptSums | None]
    assert met_by_a_user(function) == {KeptSums}
