"""The text of one record: a field of it, or a template over several."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynamics.errors import InputError, nearest

#: What a row's field may hold where it is kept beside the text.
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class RowText:
    """How a record becomes text: literal pieces, each followed by a field's value.

    Attributes
    ----------
    parts
        Pairs (literal, field name or None for a last literal).
    is_template
        In a template every scalar is written as text; a single field must be text already, or a conversation.
    """

    parts: tuple[tuple[str, str | None], ...]
    is_template: bool

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read, each once."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def __call__(self, row: Mapping[str, object], place: str) -> str:
        """Return the text of `row`; `place` names it in the InputError for an unusable value."""
        pieces: list[str] = []
        for literal, name in self.parts:
            pieces.append(literal)
            if name is not None:
                if name not in row:
                    raise InputError(_no_field(name, row, place, self.is_template))
                pieces.append(self._value(row[name], name, place))
        return _whole_characters("".join(pieces), place)

    def _value(self, value: object, name: str, place: str) -> str:
        if isinstance(value, str):
            return value
        if not self.is_template:
            turns = _turns(value)
            if turns is not None:
                return "\n\n".join(turns)
            raise InputError(
                f"{place}: field {name!r} holds {_kind(value)}, not text; name a field of text, "
                f'or write it out with template: "{{{name}}}"'
            )
        if value is None or isinstance(value, list | tuple | dict | bytes):
            raise InputError(
                f"{place}: field {name!r} holds {_kind(value)}, and a template takes text, "
                "numbers and true or false; mend or remove this record"
            )
        return str(value)


def row_text(field: str, template: str | None) -> RowText:
    """Return how records become text: by `template` where there is one, else by `field`.

    Raises
    ------
    InputError
        The template is malformed, names no field, or asks for more than plain ``{field}`` names
        (positions, attributes, indices, conversions and format specifications are refused: a
        template comes with a recipe, which may be a stranger's).
    """
    if template is None:
        return RowText(parts=(("", field),), is_template=False)
    remedy = 'write fields as {name}, and a brace itself as {{ or }}: "{question}\\n{answer}"'
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"template {template!r} is malformed ({error}); {remedy}") from error
    parts: list[tuple[str, str | None]] = []
    for literal, name, specification, conversion in parsed:
        if name is not None and (not name or name.isdecimal() or set(name) & set(".[]") or specification or conversion):
            shown = name + (f"!{conversion}" if conversion else "")
            shown += f":{specification}" if specification else ""
            raise InputError(
                f"template {template!r}: {{{shown}}} is not a plain field name (no position, "
                f"attribute, index, conversion or format); {remedy}"
            )
        parts.append((literal, name))
    if all(name is None for _, name in parts):
        raise InputError(f"template {template!r} names no field; {remedy}")
    return RowText(parts=tuple(parts), is_template=True)


def check_columns(text_of: RowText, columns: Iterable[str], place: str) -> None:
    """Raise InputError, naming `place`, unless the table has every column that is read."""
    present = dict.fromkeys(columns)
    for name in text_of.fields:
        if name not in present:
            raise InputError(_no_field(name, present, place, text_of.is_template))


def kept_values(row: Mapping[str, object], names: Sequence[str], place: str) -> tuple[tuple[str, Scalar], ...]:
    """Return the fields of a row that are kept beside its text, as (name, value); None where it has none.

    Raises
    ------
    InputError
        A value is neither text nor a number nor true or false; `place` names it.
    """
    return tuple((name, _scalar(row.get(name), name, place)) for name in names)


def _scalar(value: object, name: str, place: str) -> Scalar:
    if isinstance(value, str):
        return _whole_characters(value, place)
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    shown = repr(value) if isinstance(value, float) else _kind(value)
    raise InputError(
        f"{place}: field {name!r} holds {shown}, and corpus.keep takes text, numbers and true or false; mend this "
        "record, or do not keep the field"
    )


def _whole_characters(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: holds a lone surrogate (U+{ord(text[error.start]):04X}), which is half "
            "a character and cannot be written as UTF-8; mend or remove this record"
        ) from error
    return text


def _turns(value: object) -> list[str] | None:
    """Return the texts of a conversation's turns; None for what is no conversation."""
    if not isinstance(value, list) or not value:
        return None
    texts = [turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None for turn in value]
    told = [text for text in texts if isinstance(text, str)]
    return told if len(told) == len(texts) else None


def _no_field(name: str, present: Iterable[str], place: str, is_template: bool) -> str:
    there = list(present)
    key = "template" if is_template else "field"
    listed = ", ".join(map(repr, there)) if there else "none"
    return (
        f"{place}: there is no field {name!r}{nearest(name, there)}; its fields are {listed}; "
        f"name one of them with corpus.{key}"
    )


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else f"a value of type {type(value).__name__}"
