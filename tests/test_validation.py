"""The message about bad settings: which key, which value, what instead."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from dynamics.errors import InputError
from dynamics.validation import Settings, shown, validated


class Circle(Settings):
    name: Literal["circle"] = "circle"
    radius: float = Field(gt=0.0, le=10.0)

    @field_validator("radius")
    @classmethod
    def _no_unit_circle(cls, value: float) -> float:
        if value == 1.0:
            raise ValueError("the unit circle is taken")
        return value


class Square(Settings):
    name: Literal["square"] = "square"
    side: float
    corners: list[str] = []

    @model_validator(mode="after")
    def _not_degenerate(self) -> Square:
        if self.side == 0.0:
            raise ValueError("side 0 makes a point; raise it")
        return self


class Picture(Settings):
    width: int = Field(default=1, ge=1)
    visible: bool = True
    caption: str | None = Field(default=None, min_length=1)
    size: Literal["small", "large"] | int = "small"
    shapes: list[Annotated[Circle | Square, Field(discriminator="name")]] = []
    layers: dict[str, Square] = {}
    extra: dict[str, Any] = {}


def message(data: Any) -> str:
    with pytest.raises(InputError) as caught:
        validated(Picture, data, where="picture")
    return str(caught.value)


def test_good_values_pass_and_a_whole_number_does_for_a_float() -> None:
    picture = validated(
        Picture,
        {"shapes": [{"name": "circle", "radius": 2}], "layers": {"a": {"side": 3}}},
        where="",
    )
    assert picture.shapes == [Circle(radius=2.0)]
    assert isinstance(picture.shapes[0], Circle) and type(picture.shapes[0].radius) is float
    assert picture.layers["a"].side == 3.0


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        validated(Picture, {}, where="").width = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"widht": 3}, "widht: unknown key; did you mean 'width'?"),
        (
            {"zzz": 3},
            "zzz: unknown key; the keys here are caption, extra, layers, shapes, size, visible, "
            "width",
        ),
        ({"width": 0}, "width: must be at least 1, not 0"),
        ({"width": "3"}, "width: must be a whole number, not '3'"),
        ({"width": 3.0}, "width: must be a whole number, not 3.0"),
        ({"width": True}, "width: must be a whole number, not true"),
        ({"width": None}, "width: must be a whole number, not null"),
        ({"visible": 1}, "visible: must be true or false, not 1"),
        ({"caption": 7}, "caption: must be text, not 7 (quotes make it text)"),
        (
            {"caption": date(2024, 1, 2)},
            "caption: must be text, not 2024-01-02 (quotes make it text)",
        ),
        ({"caption": ["a"]}, "caption: must be text, not ['a']"),
        ({"caption": ""}, "caption: must be text that is not empty, not ''"),
        ({"size": "big"}, "size: must be 'small' or 'large' or a whole number, not 'big'"),
        ({"shapes": 3}, "shapes: must be a list, not 3"),
        ({"shapes": ["circle"]}, "shapes.0: must be a mapping (key: value), not 'circle'"),
        ({"extra": []}, "extra: must be a mapping (key: value), not []"),
        (
            {"shapes": [{"name": "circle", "radius": 2}, {"name": "square"}]},
            "shapes.1.side: is missing (add it)",
        ),
        (
            {"shapes": [{"name": "circle", "radius": 2, "radiuss": 2}]},
            "shapes.0.radiuss: unknown key; did you mean 'radius'?",
        ),
        # Another member of the union has the key: it is not suggested.
        (
            {"shapes": [{"name": "circle", "radius": 2, "sidee": 2}]},
            "shapes.0.sidee: unknown key; the keys here are name, radius",
        ),
        # A key that is called like its union's tag.
        (
            {"shapes": [{"name": "circle", "radius": 2, "circle": 2}]},
            "shapes.0.circle: unknown key; the keys here are name, radius",
        ),
        ({"shapes": [{"name": "circle", "radius": 0}]}, "shapes.0.radius: must be above 0, not 0"),
        (
            {"shapes": [{"name": "circle", "radius": 11}]},
            "shapes.0.radius: must be at most 10, not 11",
        ),
        (
            {"shapes": [{"name": "circle", "radius": float("nan")}]},
            "shapes.0.radius: must be a finite number, not nan",
        ),
        (
            {"shapes": [{"name": "circle", "radius": 1}]},
            "shapes.0.radius: the unit circle is taken",
        ),
        (
            {"shapes": [{"name": "square", "side": 0}]},
            "shapes.0: side 0 makes a point; raise it",
        ),
        (
            {"shapes": [{"name": "square", "side": 1, "corners": ["a", 2]}]},
            "shapes.0.corners.1: must be text, not 2 (quotes make it text)",
        ),
        (
            {"shapes": [{"name": "sqare", "side": 1}]},
            "shapes.0: name 'sqare' is unknown; did you mean 'square'?",
        ),
        (
            {"shapes": [{"name": 5}]},
            "shapes.0: name '5' is unknown; there are circle, square",
        ),
        ({"shapes": [{"side": 1}]}, "shapes.0: has no name; give name: one of circle, square"),
        (
            {"layers": {"front": {"side": 1, "sid": 2}}},
            "layers.front.sid: unknown key; did you mean 'side'?",
        ),
        ({"layers": {"front": None}}, "layers.front: must be a mapping (key: value), not null"),
        ({5: 1}, "5: keys must be text (quotes make it text)"),
        ([], "must be a mapping (key: value), not []"),
    ],
)
def test_one_problem_is_one_sentence(data: Any, expected: str) -> None:
    assert message(data) == f"picture: {expected}"


def test_all_problems_are_named_in_one_line() -> None:
    data = {"width": 0, "visible": "yes", "shapes": [{"name": "circle", "radius": -1}], "hue": 1}
    found = message(data)
    assert found.startswith("picture: ")
    for part in (
        "width: must be at least 1, not 0",
        "visible: must be true or false, not 'yes'",
        "shapes.0.radius: must be above 0, not -1",
        "hue: unknown key",
    ):
        assert part in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (False, "false"),
        ("a", "'a'"),
        (1.5, "1.5"),
        (date(2024, 1, 2), "2024-01-02"),
    ],
)
def test_values_are_shown_as_yaml_writes_them(value: Any, expected: str) -> None:
    assert shown(value) == expected


def test_long_values_are_cut() -> None:
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
    assert len(message({"width": "x" * 1000})) < 150


some_text = st.text("ab._ é\n", max_size=4)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | some_text,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "circle", "square", "side", "radius", "shapes", "layers"])
            | some_text,
            below,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from([*Picture.model_fields, "shape", "other"]), plain, max_size=4)
)
def test_any_plain_values_are_settings_or_an_input_error(data: dict[str, Any]) -> None:
    try:
        validated(Picture, data, where="picture")
    except InputError as error:
        assert str(error).startswith("picture: ")
