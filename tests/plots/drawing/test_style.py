from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import matplotlib
import pytest
from matplotlib.colors import to_rgb

from dynamics.errors import InputError
from dynamics.plots.drawing.style import arm_role, arm_styles, bucket_colors, load_style, venues


@pytest.fixture(autouse=True)
def unchanged_settings() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("baseline", "baseline"),
        ("Baseline", "baseline"),
        ("study/baseline", "baseline"),
        ("entrodrop", "entrodrop"),
        ("entrodrop-linear", "entrodrop"),
        ("random_token_dropout", "random"),
        ("inverse_entrodrop", "inverse"),
        ("weight_decay", None),
        ("controlled-burn", None),
    ],
)
def test_roles(name: str, role: str | None) -> None:
    assert arm_role(name) == role


def test_colours_are_stable_by_role() -> None:
    four = arm_styles(["baseline", "entrodrop", "random", "inverse"])
    for subset in (["entrodrop"], ["inverse", "baseline", "entrodrop"], ["wd", "random"]):
        styles = arm_styles(subset)
        assert list(styles) == subset
        for name in set(subset) & set(four):
            assert styles[name].color == four[name].color
    red, green, blue = to_rgb(four["baseline"].color)
    assert red == green == blue  # grey


def test_the_exact_name_has_the_role_and_others_their_own_looks() -> None:
    styles = arm_styles(["entrodrop-cosine", "entrodrop", "entrodrop-step"])
    assert styles["entrodrop"] == arm_styles(["baseline", "entrodrop"])["entrodrop"]
    assert len({style.color for style in styles.values()}) == 3


def test_arms_differ_without_colour() -> None:
    names = ["baseline", "entrodrop", "random", "inverse", *(f"arm{i}" for i in range(20))]
    styles = arm_styles(names)
    assert len({(str(s.linestyle), s.marker) for s in styles.values()}) == len(names)


def test_arms_of_the_main_roles_differ_in_greyscale() -> None:
    styles = arm_styles(["baseline", "entrodrop", "random", "inverse"])
    weights = (0.299, 0.587, 0.114)
    grey = sorted(sum(w * c for w, c in zip(weights, to_rgb(s.color), strict=True)) for s in styles.values())
    assert min(b - a for a, b in pairwise(grey)) > 0.08


def test_low_and_high_buckets_differ_in_greyscale() -> None:
    low, high = (sum(to_rgb(color)) / 3 for color in bucket_colors(2))
    assert abs(low - high) > 0.05
    assert len(bucket_colors(10)) == 10


def test_the_style_starts_from_defaults_and_leaves_no_trace() -> None:
    with matplotlib.rc_context({"lines.linewidth": 17.0, "axes.spines.top": True}):
        with load_style().context():
            assert matplotlib.rcParams["lines.linewidth"] != 17.0
            assert matplotlib.rcParams["axes.spines.top"] is False
            assert matplotlib.rcParams["pdf.fonttype"] == 42
        assert matplotlib.rcParams["lines.linewidth"] == 17.0


def test_the_style_is_undone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), load_style("icml2024").context():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("venue", "half", "full"),
    [
        ("icml2024", 3.25, 6.75),
        ("neurips2024", 3.3, 5.5),
        ("iclr2024", 3.3, 5.5),
        ("aaai2024", 3.3, 6.975),
        ("acl", 7.7 / 2.54, 16 / 2.54),
    ],
)
def test_widths_of_venues(venue: str, half: float, full: float) -> None:
    style = load_style(venue)
    assert (style.half, style.full) == pytest.approx((half, full))
    with style.context():
        assert matplotlib.rcParams["text.usetex"] is False
        assert matplotlib.rcParams["font.family"] == ["serif"]
        assert "STIXGeneral" in matplotlib.rcParams["font.serif"]
        figure = style.figure(column="full", height=2.0)
    assert figure.get_figwidth() == pytest.approx(full)


def test_acl_has_the_letters_of_other_venues_whose_captions_are_as_large() -> None:
    acl, other = load_style("acl").rc, load_style("neurips2024").rc
    assert acl == other
    assert {key: acl[key] for key in ("font.size", "xtick.labelsize")} == {"font.size": 9, "xtick.labelsize": 7}


@pytest.mark.parametrize("venue", venues())
def test_every_venue_loads_without_latex(venue: str) -> None:
    with load_style(venue).context():
        assert matplotlib.rcParams["text.usetex"] is False
        assert matplotlib.rcParams["savefig.bbox"] is None


def test_an_unknown_venue_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"unknown venue 'icml24'; did you mean 'icml2024'.*there are .*, acl, .*, neurips2024, "
    ):
        load_style("icml24")
    assert "acl" in venues()


def test_importing_the_plots_loads_neither_torch_nor_seaborn_and_changes_no_settings() -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "import dynamics.plots.saving\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "heavy = {'torch', 'transformers', 'seaborn', 'tueplots', 'matplotlib.pyplot'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
