"""Groups of tokens by a label: where a document comes from, what its text is like, or whatever the user says.

A group is used where buckets are (`buckets=`): curves, maps, comparisons and intervals by group. Groups are frozen: a
document or a token is in the same one in every epoch, arm and seed. Tokens without a label are in none, and left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.token_records import TokenRecords
from dynamics.display.results import Shown
from dynamics.errors import InputError, nearest
from dynamics.records.reader import Run, Study
from dynamics.records.values import Records

#: More groups than this are no curves that anybody reads, and a sum for each document and group is kept.
MOST_GROUPS = 1000


@dataclass(frozen=True, slots=True, repr=False)
class Groups(Shown):
    """Tokens by label; made by `groups_by_regex`, `groups_by_match`, `groups_by_field` or `own_groups`.

    Attributes
    ----------
    name : str
        What the labels say, for axes and titles.
    labels : tuple of str
        Names of the groups, in their order.
    key : tuple
        Equal for groups that put every token into the same group under the same name, and hashable.
    of : callable
        Takes the records of a split, gives the group of every document of the split, shape (D,), or of every recorded
        token, shape (S, P): int16, -1 for none.
    chosen_by_outcome : bool
        Whether the labels come from losses that are then compared, so that they regress to the mean.
    """

    name: str
    labels: tuple[str, ...]
    key: tuple[Any, ...]
    of: Callable[[Any], NDArray[np.int16]]
    chosen_by_outcome: bool = False

    @property
    def by(self) -> str:
        """What the labels say, in words."""
        return self.name

    @property
    def n(self) -> int:
        """Number of groups."""
        return len(self.labels)

    @property
    def moving(self) -> bool:
        """Whether tokens change their group between epochs: never."""
        return False

    def index(self, records: TokenRecords, epoch: int | None = None, /) -> NDArray[np.int16]:
        """Return the group of every token, shape (S, P); -1 for none, and at padding."""
        document_id = np.asarray(records.document_id)
        found = self.of(records)
        if found.ndim == 1:
            found = found[document_id]
        return np.where(document_id >= 0, found, np.int16(-1))


def groups_by_regex(
    patterns: Mapping[str, str] | str, *, other: str | None = "other", name: str = "text", flags: int = 0
) -> Groups:
    r"""Return groups of documents by regular expressions on their text.

    Parameters
    ----------
    patterns : mapping of str to str, or str
        By label, what is searched for anywhere in a document's text (`re.search`); a document is in the group of the
        first pattern that it has. A single pattern is its own label.
    other : str or None
        The group of documents that have none of the patterns; None leaves them out.
    name : str
        What the groups say, for axes and titles.
    flags : int
        Those of `re`: ``re.MULTILINE`` makes ``^`` the begin of a line.

    Raises
    ------
    InputError
        For no pattern, one that is malformed, or a label that is given twice.

    Examples
    --------
    >>> groups_by_regex({"code": r"^(def|class) ", "tables": r"\|---"}, other="prose", flags=re.MULTILINE).labels
    ('code', 'tables', 'prose')
    """
    named = {patterns: patterns} if isinstance(patterns, str) else dict(patterns)
    compiled = compiled_patterns("groups_by_regex", named, other, flags)
    labels = (*named, *([] if other is None else [other]))
    require_few_groups(labels, name)
    rest = -1 if other is None else len(named)
    # By the hash of the text: the same documents are asked after in every seed and arm.
    known: dict[bytes, int] = {}

    def of(records: Records) -> NDArray[np.int16]:
        found = np.full(records.n_documents, -1, dtype=np.int16)
        for document, digest in enumerate(records.document_hash):
            label = known.get(digest.tobytes())
            if label is None:
                text = records.document_text(document)
                label = next((at for at, pattern in enumerate(compiled) if pattern.search(text)), rest)
                known[digest.tobytes()] = label
            found[document] = label
        return found

    return Groups(name, labels, ("regex", name, tuple(named.items()), other, int(flags)), of)


def groups_by_field(data: Run | Study, field: str, *, missing: str | None = None) -> Groups:
    """Return groups of documents by a field that their corpus kept of them (``corpus.keep`` in the recipe).

    Parameters
    ----------
    data : Run or Study
        Any run of the study: all have the same documents. The labels are the values that occur in its splits, sorted,
        numbers as such.
    field : str
        A field of the rows of the corpus, or ``<source>``, which of its sources a document is from.
    missing : str, optional
        Label for documents that have no such field, or nothing in it; without, they are in no group.

    Raises
    ------
    InputError
        If the run did not keep the field, no document has it, or it has more values than there may be groups.
    """
    run = _any_run(data)
    splits = [run.records(split) for split in run.splits]
    # A validation set of its own may have been recorded without fields; it is refused when it is asked for.
    kept = [_kept(records, field) for records in splits if field in records.document_fields]
    names, place = _places(field, chain(*(kept or [_kept(splits[0], field)])), missing)

    def of(records: Records) -> NDArray[np.int16]:
        here = _kept(records, field)
        strange = sorted({label for label in here if label not in place}, key=str)
        if strange:
            raise InputError(
                f"field {field!r}: documents of {records.run.path} have {', '.join(map(repr, strange[:5]))}, which "
                f"none of {run.path} has; make the groups from that run"
            )
        return np.asarray([place[label] for label in here], dtype=np.int16)

    return Groups(field, names, ("field", field, names, missing), of)


def own_groups(
    name: str,
    labels: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    order: Sequence[Any] | None = None,
    missing: str | None = None,
    chosen_by_outcome: bool = False,
) -> Groups:
    """Return groups by labels of one's own.

    Parameters
    ----------
    name : str
        What the labels say, for axes and titles.
    labels : mapping
        By split, one label for every document of the split, recorded or not, shape (D,), or for every recorded token,
        shape (S, P). Text, whole numbers, or true and false; None or NaN for none.
    order : sequence, optional
        The labels in the order of the groups; one that occurs nowhere is an empty group. Default: sorted, numbers as
        such.
    missing : str, optional
        Label for what has none; without, it is in no group.
    chosen_by_outcome : bool
        Say so of labels that come from losses: their groups regress to the mean, and comparing them warns.

    Raises
    ------
    InputError
        For labels of another kind or shape, more than there may be groups, or a label that `order` lacks. A split
        without labels, or with others than its documents or tokens, raises when its groups are asked for.
    """
    coded = {split: _coded(name, split, values) for split, values in labels.items()}
    wanted = None if order is None else [_label(name, value) for value in order]
    names, place = _places(name, (label for found, _ in coded.values() for label in found), missing, order=wanted)
    index = {split: np.asarray([place[label] for label in found], np.int16)[at] for split, (found, at) in coded.items()}

    def of(records: Records) -> NDArray[np.int16]:
        if records.split not in index:
            raise InputError(f"groups {name!r} have no labels for {records.split!r}: they have {', '.join(index)}")
        found = index[records.split]
        shapes = ((records.n_documents,), records.token_id.shape)
        if found.shape not in shapes:
            raise InputError(
                f"groups {name!r} have labels of shape {found.shape} for {records.split!r}, which has {shapes[0][0]} "
                f"documents and recorded tokens of shape {shapes[1]}; give one for each document or for each token"
            )
        return found

    content = tuple((split, array.shape, array.tobytes()) for split, array in sorted(index.items()))
    return Groups(name, names, ("own", name, names, content), of, chosen_by_outcome)


def compiled_patterns(what: str, named: Mapping[str, str], other: str | None, flags: int) -> list[re.Pattern[str]]:
    """Return the patterns of groups by label; InputError for none, one that is malformed, or a label given twice."""
    if not named:
        raise InputError(f"{what} needs a pattern; give {{label: pattern}}")
    if other in named:
        raise InputError(f"the label {other!r} is that of a pattern and of all others; name one otherwise")
    return [_compiled(label, pattern, flags) for label, pattern in named.items()]


def _compiled(label: str, pattern: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"the pattern {pattern!r} of {label!r} is no regular expression: {error}") from error


def _any_run(data: Run | Study) -> Run:
    if isinstance(data, Run):
        return data
    if not data.runs:
        raise InputError(f"no run of {data.path} has begun; train first")
    return next(iter(data.runs.values()))


def _kept(records: Records, field: str) -> list[str | None]:
    """Return the label of every document of a split by one of its fields; InputError where that was not kept."""
    fields = records.document_fields
    if field not in fields:
        raise InputError(
            f"{records.run.path} did not keep the field {field!r} of its {records.split} documents: it kept "
            f"{', '.join(fields) or 'none'}{nearest(field, fields)}. Set corpus.keep: [{field}] before training, or "
            "give own_groups(...) a label for each document"
        )
    return [_label(field, value) for value in fields[field]]


def _coded(name: str, split: str, values: Sequence[Any] | NDArray[Any]) -> tuple[list[str | None], NDArray[np.intp]]:
    """Return labels, and which of them every document or token has."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        distinct, at = np.unique(values, return_inverse=True)
        array, given = values, distinct.tolist()
    else:
        # Not as numpy sees it, which would write None, and numbers among text, as text.
        array = np.asarray(values, dtype=object)
        given, at = array.reshape(-1).tolist(), np.arange(array.size)
    if array.ndim not in (1, 2):
        raise InputError(
            f"groups {name!r}: the labels of {split!r} have shape {array.shape}; give one for each document, (D,), or "
            "for each recorded token, (S, P)"
        )
    return [_label(name, value, whole=True) for value in given], at.reshape(array.shape)


def _label(name: str, value: Any, *, whole: bool = False) -> str | None:
    """Return a value as a label, as JSON would write it; None for none. `whole`: no fractions."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            return str(int(value))
        if not whole:
            return str(value)
    raise InputError(
        f"groups {name!r}: the label {value!r} is neither text nor a whole number nor true or false; other numbers can "
        "be put into buckets (make_buckets with own_signal)"
    )


def _places(
    name: str, labels: Iterable[str | None], missing: str | None, *, order: Sequence[str | None] | None = None
) -> tuple[tuple[str, ...], dict[str | None, int]]:
    """Return the names of the groups in order, and the group of each label; -1 for none."""
    present = {label for label in labels if label is not None}
    if not present:
        raise InputError(f"nothing has a label of {name!r}, so there are no groups")
    if order is None:
        names = sorted(present, key=_by_number)
    else:
        names = [label for label in dict.fromkeys(order) if label is not None]
        lacking = sorted(present.difference(names))
        if lacking:
            raise InputError(f"groups {name!r}: order lacks {', '.join(lacking[:5])}; name every label")
    if missing is not None and missing not in names:
        names.append(missing)
    require_few_groups(names, name)
    place: dict[str | None, int] = {label: at for at, label in enumerate(names)}
    place[None] = -1 if missing is None else place[missing]
    return tuple(names), place


def _by_number(label: str) -> tuple[bool, float, str]:
    """Sort numbers as such and before text."""
    number = re.fullmatch(r"-?\d+(\.\d+)?", label, re.ASCII)
    return number is None, 0.0 if number is None else float(label), label


def require_few_groups(labels: Sequence[str], name: str) -> None:
    """Raise InputError for more groups than anybody reads (`MOST_GROUPS`)."""
    if len(labels) > MOST_GROUPS:
        raise InputError(
            f"{name!r} has {len(labels)} labels, and at most {MOST_GROUPS} can be groups; give coarser ones, or put "
            "numbers into buckets (make_buckets with own_signal)"
        )
