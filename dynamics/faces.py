"""Lazy public faces (PEP 562): a package that lists its public names and loads each one on its first use.

A face is an ``__init__.py`` that calls `lazy_face` and gives the same names to type checkers::

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from dynamics.records.reader import Run as Run, Study as Study
    else:
        __all__, __getattr__, __dir__ = lazy_face(__name__, {"dynamics.records.reader": ["Run", "Study"]})

Type checkers and editors read the imports, Python runs the call, and tests/test_faces.py holds the two together.
Type checkers never see ``__getattr__``, so that they still report a name that is not there. Every room may use this
module. It imports nothing when it is loaded, because `import dynamics` must stay cheap.
"""

from __future__ import annotations

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The packages that have a face. A public name is in one of them.
FACES = ("dynamics", "dynamics.analysis", "dynamics.notebook", "dynamics.plots", "dynamics.records")

# What the torch-free installation leaves out.
_TRAINING_PACKAGES = ("torch", "transformers", "accelerate", "datasets")


def lazy_face(
    package: str,
    names: Mapping[str, Sequence[str]],
    *,
    faces: Sequence[str] = (),
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a package that loads its public names on first use.

    Parameters
    ----------
    package : str
        The ``__name__`` of the package.
    names : mapping of str to sequence of str
        The public names, by the module that defines them.
    faces : sequence of str
        Subpackages that are public names too, such as "analysis".

    Returns
    -------
    tuple
        The sorted list of public names, and the two functions. ``__getattr__`` raises AttributeError for a name that
        the face does not have, and says where the name is or which one is near. It raises ImportError for a name that
        needs torch where torch is not installed.
    """
    module_of = {name: module for module, listed in names.items() for name in listed}
    public = sorted({*module_of, *faces})

    def __getattr__(name: str) -> object:
        import importlib
        import sys

        if name in faces:
            return importlib.import_module(f"{package}.{name}")  # which sets the attribute
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{_hint(package, name)}")
        try:
            value = getattr(importlib.import_module(module_of[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _TRAINING_PACKAGES:
                raise
            raise ImportError(
                f"{package}.{name} needs torch and transformers, and {error.name!r} is not installed: "
                "pip install torch transformers accelerate. Records, analysis and plots work without."
            ) from error
        # Kept, so that the second use costs nothing.
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        import sys

        return sorted({*public, *(name for name in vars(sys.modules[package]) if name.startswith("__"))})

    return public, __getattr__, __dir__


def deferred(module: str, name: str) -> Callable[[], object]:
    """Return a function that imports a module when it is called, and returns what has that name in it.

    The package's face fills the hooks of rooms on the left with such functions: `dynamics.records` offers what a room
    on the right makes, and neither imports nor names that room.
    """

    def load() -> object:
        import importlib

        return getattr(importlib.import_module(module), name)

    return load


def _hint(package: str, name: str) -> str:
    """Say where a name is, or which public name is near it: first of this face, then of the others."""
    if name.startswith("_"):  # Python and notebooks ask for many of these
        return ""
    import difflib
    import importlib
    import importlib.util

    # "from package import submodule" asks here first, and imports the submodule after this error.
    if importlib.util.find_spec(f"{package}.{name}") is not None:
        return ""

    others = [face for face in FACES if face != package]
    listed = {face: getattr(importlib.import_module(face), "__all__", ()) for face in (package, *others)}
    places = [f"{face}.{name}" for face in others if name in listed[face]]
    if places:
        return f"; it is {' or '.join(places)}"
    near = difflib.get_close_matches(name, {word for words in listed.values() for word in words}, n=1, cutoff=0.6)
    if not near:
        return ""
    if near[0] in listed[package]:
        return f"; did you mean {near[0]!r}?"
    places = [f"{face}.{near[0]}" for face in others if near[0] in listed[face]]
    return f"; did you mean {' or '.join(places)}?"
