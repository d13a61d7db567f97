"""Passages in bytes: what was read of each, in the codes of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.sums.curves import ratio
from dynamics.analysis.tokens.buckets import Buckets
from dynamics.analysis.tokens.token_records import Floats
from dynamics.explorer.payload import Epochs, body, head
from dynamics.explorer.quantise import UNKNOWN, Scale
from dynamics.explorer.split_tokens import Measured, SplitTokens, difference

# Colours span all but the outermost 1 % of what is shown, measured on so many values of a split.
_SPAN = 99.0
_SAMPLE = 200_000


class Candidates:
    """The passages of a split whose values are read, in the order in which they are to go into the page."""

    def __init__(self) -> None:
        self._pieces: list[NDArray[np.int64]] = []
        self._place: dict[int, slice] = {}
        self._n = 0

    def add(self, passage: int, tokens: NDArray[np.int64]) -> None:
        """Take in a passage."""
        self._place[passage] = slice(self._n, self._n + len(tokens))
        self._pieces.append(tokens)
        self._n += len(tokens)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Their tokens, one passage after the other."""
        return np.concatenate(self._pieces) if self._pieces else np.empty(0, dtype=np.int64)

    def place(self, passage: int) -> slice | None:
        """Return where a passage lies among `tokens`; None if it is none of these."""
        return self._place.get(passage)


class PassageEncoder:
    """Passages in bytes.

    Parameters
    ----------
    splits : list of SplitTokens
    candidates : list of Candidates
        By split.
    measured : dict of (split, run) to Measured
        The values of their tokens.
    buckets : Buckets or None
    scale : Scale

    Attributes
    ----------
    error : float
        The greatest difference between a value in the page and the recorded one so far, in nats; of values above the
        scale's top, between the page's and the top.
    """

    def __init__(
        self,
        splits: list[SplitTokens],
        candidates: list[Candidates],
        measured: dict[tuple[int, int], Measured],
        buckets: Buckets | None,
        scale: Scale,
    ) -> None:
        self.splits, self.candidates, self.measured, self.scale = splits, candidates, measured, scale
        self.n_runs = len(splits[0].records)
        self.error = 0.0
        self._tables = [split.table(buckets, scale) for split in splits]
        self._fates = [[split.fates(r, scale) for r in range(self.n_runs)] for split in splits]
        self._learned = [
            [split.flat(found.first_learned, r) for r, found in enumerate(split.trajectories)] for split in splits
        ]

    def place(self, s: int, p: int) -> slice | None:
        """Return where a passage lies among what was read; None if it was not."""
        return self.candidates[s].place(p)

    def head(self, s: int, p: int) -> bytes:
        """Return a passage's text, tokens and what became of them; `error` knows of the references then."""
        passage = self.splits[s].passages[p]
        table = self._tables[s].take(passage.tokens)
        records = self.splits[s].records[0]
        for exact, in_page in (
            (records.reference_loss, table.reference_loss),
            (records.reference_entropy, table.reference_entropy),
        ):
            self._note_error(self.splits[s].flat(exact, 0)[passage.tokens], in_page)
        first, last = int(table.start.min()), int(table.end.max())
        text = records.document_bytes(passage.document)[first:last]
        table.start[:] -= first
        table.end[:] -= first
        return head(table, [fates.take(passage.tokens) for fates in self._fates[s]], text)

    def body(self, s: int, p: int) -> bytes:
        """Return a passage's values in every epoch; `error` knows of them then."""
        where = self.place(s, p)
        assert where is not None
        coded: list[Epochs] = []
        for r in range(self.n_runs):
            exact = self.measured[s, r].part(where)
            codes = exact.coded(self.scale)
            for values, in_page in ((exact.loss, codes.loss), (exact.entropy, codes.entropy)):
                self._note_error(values, in_page)
            coded.append(codes)
        return body(coded)

    def _note_error(self, exact: NDArray[Any], in_page: NDArray[np.uint8]) -> None:
        off = np.abs(self.scale.decode(in_page) - np.minimum(exact, self.scale.top, dtype=np.float32))
        self.error = max(self.error, float(np.max(off, where=in_page != UNKNOWN, initial=0.0)))

    def facts(self, s: int, p: int) -> dict[str, Any]:
        """Return what the list of passages shows and sorts by: of every run, over the predicted tokens."""
        where, passage = self.place(s, p), self.splits[s].passages[p]
        assert where is not None
        predicted = self._tables[s].predicted[passage.tokens].astype(bool)
        reference = self.splits[s].reference_loss[passage.tokens][predicted]
        by_run = []
        for r in range(self.n_runs):
            learned = self._learned[s][r][passage.tokens][predicted]
            forgotten = self._fates[s][r].forgetting[passage.tokens][predicted]
            curve = _means(self.measured[s, r].loss[:, where][:, predicted])
            by_run.append(
                {
                    "rebound": _rounded(difference(curve[-1], np.min(curve))),
                    "gap": _rounded(difference(curve[-1], _mean(reference))),
                    "learned": _rounded(_mean(learned >= 0)),
                    "first": _rounded(_mean(learned[learned >= 0])),
                    "forgetting": _rounded(_mean(forgotten)),
                }
            )
        return {
            "document": passage.document,
            "part": passage.part,
            "parts": passage.n_parts,
            "tokens": len(passage.tokens),
            "runs": by_run,
        }

    def colours(self, best: list[int]) -> dict[str, float]:
        """Return how far each colour scale goes, in nats: the same for all epochs, splits and runs.

        Parameters
        ----------
        best : list of int
            Each run's best epoch.
        """
        found: dict[str, list[NDArray[Any]]] = {}
        for s, split in enumerate(self.splits):
            tokens = self.candidates[s].tokens
            step = max(1, -(-len(tokens) * len(split.epochs) // _SAMPLE))
            reference = self.splits[s].reference_loss[tokens[::step]]
            both = []
            for r in range(self.n_runs):
                values = self.measured[s, r]
                loss, entropy = (v[:, ::step].astype(np.float32) for v in (values.loss, values.entropy))
                both.append((loss, entropy))
                for name, each in (
                    ("loss", loss),
                    ("entropy", entropy),
                    ("change", difference(loss, loss[split.epochs.index(best[r])])),
                    ("gap", difference(loss, reference)),
                    ("overconfidence", difference(loss, entropy)),
                ):
                    found.setdefault(name, []).append(np.abs(each))
            if self.n_runs == 2:
                found.setdefault("difference", []).extend(np.abs(difference(a, b)) for a, b in zip(*both, strict=True))
        return {name: _span(parts) for name, parts in found.items()}


def _means(values: NDArray[Any]) -> Floats:
    """Return the mean of every row over what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=1, dtype=np.float64), known.sum(axis=1).astype(np.float64))


def _mean(values: NDArray[Any]) -> float:
    return float(_means(np.asarray(values, dtype=np.float64)[None, :])[0])


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _span(parts: list[NDArray[Any]]) -> float:
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    # One digit after the point reads well in a legend.
    return max(0.1, float(np.ceil(np.percentile(values, _SPAN) * 10) / 10)) if values.size else 1.0
