"""What every figure function returns: the panels that it drew, which show and save themselves."""

from __future__ import annotations

import io
import math
import os
import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamics.errors import InputError, nearest
from dynamics.plots.drawing.style import load_style
from dynamics.records.schema import atomic_write_bytes

FORMATS = ("pdf", "svg", "png")

# Nothing that changes from day to day; what is None is left out of the file.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
# Pixels of the picture by pixel of a notebook's page: sharp on screens of high resolution.
_SHARPNESS = 2
# Backends that have no window. The first two are names of the one that Jupyter uses.
_WITHOUT_WINDOW = ("inline", "module://matplotlib_inline.backend_inline", "agg", "cairo", "pdf", "pgf", "ps", "svg")


class Plot:
    """A drawn figure: its panels, and how to show and save it.

    In Jupyter it shows itself as the last value of a cell or with ``display(plot)``. A figure that is drawn in the
    middle of a cell is shown when the cell ends. In a script ``matplotlib.pyplot.show()`` shows it. pyplot knows only
    figures that the library made: a figure drawn into your own `ax` is yours to show.

    Parameters
    ----------
    axes : sequence of Axes
        The panels, all in one figure, at least one.
    own : bool
        Whether the library made the figure. It is then saved with the library's settings of matplotlib; else with
        yours.

    Attributes
    ----------
    axes : list of Axes
        The panels, in the order in which they were drawn.
    ax : Axes
        The first panel.
    figure : Figure
        The whole figure, even if the panels lie in a subfigure.

    Notes
    -----
    pyplot keeps a figure until it is shown in a notebook or closed, and warns at the 21st
    (``rcParams["figure.max_open_warning"]``). After saving many figures in a script, close each with
    ``matplotlib.pyplot.close(plot.figure)``, or use `dynamics.plots.save_figures`, which keeps none.
    """

    def __init__(self, axes: Sequence[Axes], *, own: bool) -> None:
        self.axes = list(axes)
        self.figure: Figure = root_figure(self.axes[0])
        self._own = own

    @property
    def ax(self) -> Axes:
        """The first panel."""
        return self.axes[0]

    def save(self, path: str | os.PathLike[str], *, dpi: float | None = None) -> Path:
        """Save the figure, as the suffix of the path says: ``.pdf``, ``.svg`` or ``.png``.

        A figure that is drawn and saved again gives the same bytes. Saving one figure twice may not, since its layout
        starts from where it was. A file that exists is replaced, as a whole or not at all.

        Parameters
        ----------
        path : str or PathLike
            A missing folder is made.
        dpi : float, optional
            Pixels per inch of a PNG, and of the pictures within a PDF or SVG. Default: 300 for a figure of the
            library, ``rcParams["savefig.dpi"]`` for your own.

        Returns
        -------
        Path
            Where the file is.

        Raises
        ------
        InputError
            If the suffix is not one of the three, or `dpi` is not a number above 0.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            endings = ", ".join(f".{each}" for each in FORMATS)
            raise InputError(f"cannot save a figure as {str(path)!r}{nearest(kind, FORMATS)}; use one of {endings}")
        if dpi is not None and not (isinstance(dpi, int | float) and math.isfinite(dpi) and dpi > 0):
            raise InputError(f"dpi is {dpi!r}; it must be a number above 0, such as 300")
        if self._own:
            with load_style().context():
                content = rendered(self.figure, kind, dpi=dpi)
        else:
            content = rendered(self.figure, kind, dpi=dpi)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, content)
        return path

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        panels = "1 panel" if len(self.axes) == 1 else f"{len(self.axes)} panels"
        return f"<dynamics.plots.Plot: {panels}, {width:.2f} x {height:.2f} inches>"

    def _repr_png_(self) -> tuple[str, dict[str, int]] | None:
        """Return the picture for Jupyter; None where matplotlib shows this figure itself."""
        if known_to_pyplot(self.figure):
            if not self._own or matplotlib.get_backend().lower() not in _WITHOUT_WINDOW:
                # It has a window, or it is the user's and is shown when the cell ends.
                return None
            release(self.figure)
        content = rendered(self.figure, "png", dpi=_SHARPNESS * self.figure.dpi)
        width, height = (round(inches * self.figure.dpi) for inches in self.figure.get_size_inches())
        return b64encode(content).decode("ascii"), {"width": width, "height": height}


def root_figure(ax: Axes) -> Figure:
    """Return the figure that holds a panel, also where the panel is in a subfigure."""
    # A subfigure's `figure` is the outermost one.
    figure: Any = ax.figure
    return figure if isinstance(figure, Figure) else figure.figure


def rendered(figure: Figure, kind: str, *, dpi: float | None = None) -> bytes:
    """Return a figure as the bytes of a file; `dpi` None is that of matplotlib's settings."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_METADATA[kind], dpi=dpi or matplotlib.rcParams["savefig.dpi"])
    return buffer.getvalue()


def known_to_pyplot(figure: Figure) -> bool:
    """Whether pyplot keeps a figure, so that ``plt.show()`` or the end of a cell shows it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return False
    number = getattr(figure, "number", None)
    # The number of a closed figure may be another one's by now.
    return number in pyplot.get_fignums() and figure.canvas.manager is pyplot._pylab_helpers.Gcf.figs.get(number)


def release(figure: Figure) -> None:
    """Take a figure out of pyplot's list. It can be drawn and saved as before."""
    from matplotlib import pyplot

    pyplot.close(figure)
