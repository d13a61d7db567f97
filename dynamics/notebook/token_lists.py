"""Lists of single tokens in their text, with their losses over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.sums.arms import Source, collect_arms
from dynamics.analysis.tokens.trajectories import CHANGE, token_trajectories
from dynamics.errors import InputError
from dynamics.notebook.coloring import ColoredText, colored_text
from dynamics.records.values import Records

if TYPE_CHECKING:
    import pandas

_BEFORE, _AFTER = 14, 5
_MOST_EPOCHS = 9


@dataclass(frozen=True, slots=True)
class TokenList:
    """Some tokens of an arm, in the text around them; Jupyter shows it as a table.

    Attributes
    ----------
    note : str
        What was looked for, and how many tokens there are.
    arm : str
    epochs : tuple of int
    sequence, position : ndarray of int64, shape (N,)
        Where each token lies in the records.
    before, token, after : tuple of str
        Each token's text, and the text around it in its document.
    loss : ndarray of float64, shape (E, N)
        Nats, the mean over seeds.
    """

    note: str
    arm: str
    epochs: tuple[int, ...]
    sequence: NDArray[np.int64]
    position: NDArray[np.int64]
    before: tuple[str, ...]
    token: tuple[str, ...]
    after: tuple[str, ...]
    loss: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.token)

    def to_frame(self) -> pandas.DataFrame:
        """Return one row a token and epoch: where it lies, its text, and its loss in nats."""
        import pandas

        n, n_epochs = len(self), len(self.epochs)
        return pandas.DataFrame(
            {
                "arm": self.arm,
                "sequence": np.tile(self.sequence, n_epochs),
                "position": np.tile(self.position, n_epochs),
                "token": list(self.token) * n_epochs,
                "epoch": np.repeat(np.array(self.epochs, dtype=np.int64), n),
                "loss": self.loss.ravel(),
            }
        )

    def __repr__(self) -> str:
        lines = [self.note]
        for i, token in enumerate(self.token):
            text = f"{_visible(self.before[i])}«{_visible(token)}»{_visible(self.after[i])}"
            losses = " ".join(f"{self.loss[e, i]:.1f}" for e in self._shown)
            lines.append(f"  {losses}  {text}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        note = f"<p>{escape(self.note)}</p>"
        if not len(self):
            return note
        head = "".join(f"<th>{self.epochs[e]}</th>" for e in self._shown)
        rows = [f'<tr><th style="text-align: left">token in its text; loss (nats) by epoch</th>{head}</tr>']
        for i, token in enumerate(self.token):
            cells = "".join(f"<td>{self.loss[e, i]:.1f}</td>" for e in self._shown)
            marked = f"<mark><b>{escape(_visible(token)) or '(end of text)'}</b></mark>"
            text = f"{escape(_visible(self.before[i]))}{marked}{escape(_visible(self.after[i]))}"
            # <code> keeps the text as it is, whatever is in it.
            rows.append(f'<tr><td style="text-align: left"><code>{text}</code></td>{cells}</tr>')
        return f"{note}<table>{''.join(rows)}</table>"

    @property
    def _shown(self) -> list[int]:
        """The epochs that a table has room for: the first and the last, and some between."""
        n = len(self.epochs)
        return sorted(set(np.linspace(0, n - 1, min(_MOST_EPOCHS, n)).round().astype(int).tolist()))


def rebounding_tokens(data: Source, *, split: str = "validation", n: int = 15) -> TokenList:
    """Return the tokens of an arm that rebounded most, among those that rebounded in every seed.

    A token's lowest loss is low by luck too. Asking for a rebound in every seed, and ranking by the least rise of all
    seeds, removes some of that luck; with one seed nothing does. These are extremes: examples, not averages.

    Parameters
    ----------
    data : Arm, Run or Study
        One arm. Of a study with several, pick one: ``analysis.collect_arms(study)[0]``.
    split : str
    n : int
        Tokens to return, at most one a sequence, so that no single passage fills the list.

    Raises
    ------
    InputError
        If `data` holds several arms, or the arm has fewer than two epochs.
    """
    name, epochs, seeds = _one_arm(data, split)
    found = [token_trajectories(records, epochs=epochs) for records in seeds]
    rise = np.min([each.last_loss - each.lowest_loss for each in found], axis=0)
    rebounding = np.all([each.rebounding for each in found], axis=0)
    n_tokens = int(seeds[0].predicted.sum())
    share = f"{int(rebounding.sum()):,} of {n_tokens:,} tokens ({rebounding.sum() / n_tokens:.1%})"
    if len(seeds) == 1:
        note = f"{name}: {share} rebounded by more than {CHANGE:g} nats in the only seed, which no other confirms."
    else:
        chance = np.prod([each.rebounding.sum() / n_tokens for each in found])
        note = (
            f"{name}: {share} rebounded by more than {CHANGE:g} nats in each of {len(seeds)} seeds. "
            f"Independent seeds would agree on {chance:.1%}."
        )
    return _listed(note, name, epochs, seeds, _largest(rise, rebounding, n))


def forgotten_tokens(data: Source, *, split: str = "validation", n: int = 8) -> TokenList:
    """Return tokens that the starting model predicted and every seed of an arm forgot, by the rise of their loss.

    A token is known where it is the most probable one (Toneva et al. 2019, arXiv 1812.05159): at the first recorded
    epoch, and no longer at the last.

    Parameters
    ----------
    data, split, n
        As for `rebounding_tokens`.

    Raises
    ------
    InputError
        As `rebounding_tokens`.
    """
    name, epochs, seeds = _one_arm(data, split)
    first, last = epochs[0], epochs[-1]
    known = seeds[0].correct(first) & seeds[0].predicted
    lost = known & np.all([records.correct(first) & ~records.correct(last) for records in seeds], axis=0)
    rise = np.mean([records.loss(last) - records.loss(first) for records in seeds], axis=0)
    many = f"each of {len(seeds)} seeds" if len(seeds) > 1 else "the only seed"
    note = (
        f"{name}: of {int(known.sum()):,} tokens that are the most probable ones at epoch {first}, "
        f"{int(lost.sum()):,} no longer are at epoch {last} in {many}."
    )
    return _listed(note, name, epochs, seeds, _largest(rise, lost, n))


def rebounding_passage(data: Source, *, split: str = "validation", full: float = 3.0) -> ColoredText:
    """Return the sequence whose loss rose most since the arm's best epoch, coloured by the change of each token.

    The best epoch is the one with the lowest mean loss of the split over all seeds. The change of a token is its loss
    at the last epoch minus that at the best one, the mean over seeds, in nats.

    Parameters
    ----------
    data, split
        As for `rebounding_tokens`.
    full : float
        The change with the strongest colour, in nats.

    Raises
    ------
    InputError
        As `rebounding_tokens`, and if every epoch has a loss that is not finite.
    """
    name, epochs, seeds = _one_arm(data, split)
    predicted = seeds[0].predicted
    means = [np.stack([records.loss(epoch) for records in seeds]).mean(axis=0, dtype=np.float64) for epoch in epochs]
    curve = np.array([values[predicted].mean() for values in means])
    if not np.isfinite(curve).any():
        raise InputError(f"arm {name!r} has no epoch with a finite loss; choose another arm")
    best = int(np.nanargmin(curve))
    change = means[-1] - means[best]
    totals = np.where(np.isfinite(change) & predicted, change, 0.0).sum(axis=1)
    row = int(totals.argmax())
    note = (
        f"{name}, {split}, sequence {int(seeds[0].sequence_id[row])}: change of the loss from epoch {epochs[best]}, "
        f"the best, to epoch {epochs[-1]}. Orange: it rose; blue: it fell; bold: by {full / 3:g} nats or more."
    )
    return replace(colored_text(seeds[0], row, change, full=full), note=note)


def _one_arm(data: Source, split: str) -> tuple[str, list[int], list[Records]]:
    arms = collect_arms(data)
    if len(arms) > 1:
        raise InputError(
            f"tokens are listed for one arm, and there are {', '.join(arm.name for arm in arms)}; "
            "pass one, such as analysis.collect_arms(study)[0]"
        )
    arm = arms[0]
    if len(arm.epochs) < 2:
        raise InputError(f"arm {arm.name!r} has one epoch alone: no token can be followed")
    return arm.name, arm.epochs, [run.records(split) for run in arm.runs]


def _largest(values: NDArray[np.floating], chosen: NDArray[np.bool_], n: int) -> list[tuple[int, int]]:
    """Return the (sequence, position) of the chosen tokens with the largest values, at most one a sequence."""
    ranked = np.where(chosen & np.isfinite(values), values, -np.inf)
    at = ranked.argmax(axis=1)
    best = ranked[np.arange(len(ranked)), at]
    order = [int(row) for row in np.argsort(-best, kind="stable") if best[row] > -np.inf]
    return [(row, int(at[row])) for row in order[:n]]


def _listed(
    note: str, arm: str, epochs: Sequence[int], seeds: Sequence[Records], places: Sequence[tuple[int, int]]
) -> TokenList:
    rows, positions = np.array(places, dtype=np.int64).reshape(-1, 2).T
    texts = [_in_context(seeds[0], row, at) for row, at in places]
    before, token, after = (tuple(part) for part in zip(*texts, strict=True)) if texts else ((), (), ())
    loss = np.array([np.mean([records.loss(epoch)[rows, positions] for records in seeds], axis=0) for epoch in epochs])
    return TokenList(note, arm, tuple(epochs), rows, positions, before, token, after, loss.astype(np.float64))


def _in_context(records: Records, row: int, at: int) -> tuple[str, str, str]:
    """Return the text before a token in its document, its own, and the text after it."""
    document = int(records.document_id[row, at])
    near = np.flatnonzero(records.document_id[row] == document)
    near = near[(near >= at - _BEFORE) & (near <= at + _AFTER)]
    start, end = records.byte_start[row], records.byte_end[row]
    raw = records.document_bytes(document)  # from bytes, since one character may be split over several tokens
    parts = raw[start[near[0]] : start[at]], raw[start[at] : end[at]], raw[end[at] : end[near[-1]]]
    left, token, right = (part.decode("utf-8", errors="replace") for part in parts)
    return left, token, right


def _visible(text: str) -> str:
    return text.replace("\n", "⏎")
