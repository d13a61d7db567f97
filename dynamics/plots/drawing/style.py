"""How figures look: colours by role, sizes and fonts by venue, applied inside a context only."""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

from dynamics.errors import InputError, nearest

Role = Literal["baseline", "entrodrop", "random", "inverse"]
Column = Literal["half", "full"]


@dataclass(frozen=True, slots=True)
class ArmStyle:
    """One arm's looks: line style and marker tell it apart where print is grey."""

    color: str
    linestyle: Any  # a name, or an offset and lengths of dashes, as matplotlib takes them
    marker: str


# Colours after Okabe and Ito (2008), which colour-blind readers tell apart; the lightest are darkened until they have a
# contrast of 3 with white (WCAG 2.2, 1.4.11).
_DASHED = (0, (4.5, 1.6))
_DASH_DOT = (0, (5.0, 1.5, 1.0, 1.5))
_ROLES: dict[Role, ArmStyle] = {
    "baseline": ArmStyle("#3F3F3F", "solid", "o"),
    "entrodrop": ArmStyle("#D55E00", "solid", "D"),
    "random": ArmStyle("#0072B2", _DASHED, "s"),
    "inverse": ArmStyle("#CC79A7", _DASH_DOT, "^"),
}
_COLORS = ("#009E73", "#4A9BC8", "#B58900", "#7F3C8D", "#8C510A", "#939393")
_LINES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, (1.2, 1.2)),
    (0, (7.0, 1.5)),
    (0, (4.5, 1.3, 1.0, 1.3, 1.0, 1.3)),
    (0, (2.6, 1.0)),
    (0, (9.0, 1.5, 3.0, 1.5)),
)
_MARKERS = ("v", "P", "X", "<", ">", "p", "*")

LOW_COLOR, HIGH_COLOR = "#1F6F8B", "#CE8300"
INK, FAINT = "#262626", "#767676"
NOTE_SIZE = 6.0
# Pixels per inch on a screen: letters of 8 points are 13 pixels high, as those of a notebook.
_SCREEN_DPI = 120.0
MINUS = "−"

_RC: dict[str, Any] = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.labelpad": 3.0,
    "axes.titlepad": 4.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.usetex": False,
    # TrueType, which venues' checks accept and editors can edit; matplotlib's default is Type 3.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    # Ids in SVG files are drawn at random without a salt.
    "svg.hashsalt": "dynamics",
    "savefig.dpi": 300.0,
    # The figure keeps its size to the point: "tight" would change the width that the venue asks
    # for.
    "savefig.bbox": "standard",
    "figure.dpi": 150.0,
    "figure.autolayout": False,
}


# The figures that a style made. Users' own are not changed in their size.
_OURS: weakref.WeakSet[Figure] = weakref.WeakSet()


def is_ours(figure: Figure) -> bool:
    """Whether the library made the figure."""
    return figure in _OURS


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes and settings of a venue.

    Attributes
    ----------
    half, full : float
        Width in inches of a figure for one column, and for the whole page.
    rc : dict
        matplotlib settings over its defaults.
    shown : bool
        Whether pyplot knows the figures, so that ``plt.show()`` shows them.
    """

    half: float = 3.35
    full: float = 6.9
    rc: dict[str, Any] = field(default_factory=dict)
    shown: bool = False

    @contextmanager
    def context(self) -> Iterator[None]:
        """Apply the style; on leaving, every setting is as it was."""
        import seaborn

        with matplotlib.rc_context():
            # From matplotlib's own defaults, so that a figure does not depend on the user's
            # settings.
            matplotlib.rcdefaults()
            settings: dict[Any, Any] = {**seaborn.axes_style("ticks"), **_RC, **self.rc}
            matplotlib.rcParams.update(settings)
            yield

    def figure(self, *, column: Column, height: float) -> Figure:
        """Return an empty figure, unknown to pyplot unless it is to be shown, whose layout makes room for labels.

        `height` is in inches for text of 8 points; larger text gets a higher figure.
        """
        width = self.half if column == "half" else self.full
        height *= max(1.0, float(self.rc.get("font.size", 8.0)) / 8.0)
        if self.shown:
            from matplotlib import pyplot

            figure = pyplot.figure(figsize=(width, height), layout="constrained", dpi=_SCREEN_DPI)
        else:
            figure = Figure(figsize=(width, height), layout="constrained")
        _OURS.add(figure)
        return figure


def venues() -> list[str]:
    """Return the names of the venues for which there are sizes and fonts, such as ``icml2024`` and ``acl``."""
    return sorted(_bundles())


def load_style(venue: str | None = None) -> Style:
    """Return the style of a venue, or the general one.

    Parameters
    ----------
    venue : str, optional
        A name that tueplots knows, a conference and a year; or ``acl``, whose style has not changed for years.

    Raises
    ------
    InputError
        For an unknown venue, or if tueplots is not installed.
    """
    if venue is None:
        return Style()
    bundles = _bundles()
    if venue not in bundles:
        raise InputError(f"unknown venue {venue!r}{nearest(venue, bundles)}; there are {', '.join(sorted(bundles))}")
    bundle = bundles[venue]
    options = inspect.signature(bundle).parameters
    plain = {"usetex": False} if "usetex" in options else {}
    rc = bundle(**plain)
    full = half = float(rc["figure.figsize"][0])
    if "column" in options:
        full = float(bundle(column="full", **plain)["figure.figsize"][0])
    else:
        # A page of one column: a small figure has the width that a column would have, text beside
        # it.
        half = min(full, max(3.25, 0.6 * full))
    kept = {key: value for key, value in rc.items() if key.endswith("size") and key != "figure.figsize"}
    # No LaTeX: venues that have a LaTeX bundle alone keep its family. Times is not everywhere, its
    # double STIX comes with matplotlib.
    family = "serif" if rc.get("font.family") == "serif" else "sans-serif"
    times = [name for name in rc.get("font.serif", []) if isinstance(name, str)]
    kept |= {
        "font.family": family,
        "font.serif": [*times, "STIXGeneral", "DejaVu Serif"],
        "mathtext.fontset": "stix" if family == "serif" else "dejavusans",
    }
    return Style(half=half, full=full, rc=kept)


def arm_role(name: str) -> Role | None:
    """Return the role that an arm's name tells, or None."""
    words = name.lower().replace("-", "_")
    if "inverse" in words:
        return "inverse"
    if "random" in words:
        return "random"
    if "entrodrop" in words:
        return "entrodrop"
    if re.search(r"(^|[_./+])(baseline|none|control)($|[_./+])", words):
        return "baseline"
    return None


def arm_styles(names: Sequence[str]) -> dict[str, ArmStyle]:
    """Give every arm its looks.

    An arm's role decides its colour, whatever other arms a figure shows. The first arm of a role
    has it, an exact name before a longer one; all other arms take further colours in their order.

    Parameters
    ----------
    names : sequence of str
        Of arms.

    Returns
    -------
    dict of str to ArmStyle
        Colour, line style and marker by name.
    """
    roles: dict[Role, str] = {}
    for exact in (True, False):
        for name in names:
            role = arm_role(name)
            if role and role not in roles and (not exact or name.lower() == role):
                roles[role] = name
    styles = {name: _ROLES[role] for role, name in roles.items()}
    others = [name for name in names if name not in styles]
    for i, name in enumerate(others):
        # 6 colours, 5 line styles and 7 markers have no common factor: 210 arms before looks
        # repeat.
        styles[name] = ArmStyle(_COLORS[i % len(_COLORS)], _LINES[i % len(_LINES)], _MARKERS[i % len(_MARKERS)])
    if len(names) == 1:
        # Nothing to tell apart.
        styles[names[0]] = replace(styles[names[0]], linestyle="solid")
    return {name: styles[name] for name in names}


def bucket_colors(n: int) -> list[Any]:
    """Return the colours of `n` buckets, from low to high entropy."""
    if n <= 2:
        return [LOW_COLOR, HIGH_COLOR][:n]
    import seaborn

    return list(seaborn.color_palette("viridis", n))


def _bundles() -> dict[str, Callable[..., dict[str, Any]]]:
    try:
        from tueplots import bundles
    except ImportError as error:
        raise InputError("venue styles need the tueplots package: pip install tueplots") from error
    # Names that end in a year are venues; the others are slides and theses.
    members = inspect.getmembers(bundles, inspect.isfunction)
    known = {name: bundle for name, bundle in members if re.fullmatch(r"[a-z]+\d{4}", name)}
    return {"acl": _acl, **known}


def _acl(*, column: Column = "half") -> dict[str, Any]:
    """Return the settings of the ACL venues (ACL, EMNLP, NAACL ...), which tueplots lacks, as it gives those it knows.

    Columns are 7.7 cm wide, the text is 16 cm. Sizes are those that tueplots gives next to captions of 10 points.
    """
    return {
        "figure.figsize": ((7.7 if column == "half" else 16.0) / 2.54, 2.0),
        "font.family": "serif",
        "font.serif": ["Times New Roman", "Times", "TeX Gyre Termes", "Nimbus Roman"],
        "font.size": 9,
        "axes.labelsize": 9,
        "axes.titlesize": 9,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
    }
