"""Text whose tokens are coloured by a number."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamics.errors import InputError
from dynamics.records.values import Records

# Orange and blue of Okabe and Ito (2008), mixed with the background, so that text is legible on white and on black.
_ABOVE, _BELOW = "213, 94, 0", "0, 114, 178"
_STRONGEST = 0.6


@dataclass(frozen=True, slots=True)
class ColoredText:
    """A passage whose tokens have the colour of a number; Jupyter shows it.

    Attributes
    ----------
    tokens : tuple of str
    values : tuple of float
        In the unit `unit`; NaN for tokens without a value.
    full : float
        The absolute value with the strongest colour.
    unit : str
    note : str
        What the passage is and what its colours mean; shown above it.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    full: float
    unit: str
    note: str = ""

    def __repr__(self) -> str:
        marked = [
            f"[{token}]{value:+.1f} " if abs(value) >= self.full / 3 else token
            for token, value in zip(self.tokens, self.values, strict=True)
        ]
        return f"{self.note}\n{''.join(marked)}" if self.note else "".join(marked)

    def _repr_html_(self) -> str:
        spans = []
        for token, value in zip(self.tokens, self.values, strict=True):
            strength = min(1.0, abs(value) / self.full) * _STRONGEST if np.isfinite(value) else 0.0
            color = f"rgba({_ABOVE if value > 0 else _BELOW}, {strength:.2f})"
            # Bold shows a strong rise where a page has no colours, as on GitHub.
            inner = f"<b>{escape(token)}</b>" if value >= self.full / 3 else escape(token)
            title = f' title="{value:+.2f} {escape(self.unit)}"' if np.isfinite(value) else ""
            spans.append(f'<span style="background: {color}"{title}>{inner}</span>')
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f'{note}<pre style="white-space: pre-wrap; line-height: 1.6">{"".join(spans)}</pre>'


def colored_text(
    records: Records, sequence: int, values: npt.ArrayLike, *, full: float = 3.0, unit: str = "nats"
) -> ColoredText:
    """Return the text of a sequence, each token coloured by a number: orange above 0, blue below.

    Parameters
    ----------
    records : Records
    sequence : int
        Row of the records.
    values : array_like, shape (P,) or (S, P)
        A number for every token of the sequence, or of the split; NaN for none.
    full : float
        The absolute value with the strongest colour. Tokens at a third of it or above are bold.
    unit : str
        Shown when the pointer is on a token.

    Raises
    ------
    InputError
        If there is no such sequence, the numbers do not fit the tokens, or `full` is not above 0.
    """
    if not full > 0 or not np.isfinite(full):
        raise InputError(f"full: {full} must be a number above 0")
    tokens = records.token_texts(sequence)
    found: Any = np.asarray(values, dtype=np.float64)
    if found.shape == np.shape(records.token_id):
        found = found[sequence]
    if found.shape != (len(tokens),):
        raise InputError(
            f"values: got shape {found.shape}; a sequence of this split has shape {(len(tokens),)}, "
            f"and the split {np.shape(records.token_id)}"
        )
    return ColoredText(tuple(tokens), tuple(found.tolist()), float(full), unit)
