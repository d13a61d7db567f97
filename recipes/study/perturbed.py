"""Word problems with other numbers and names: the same form, and nothing of it that could have been remembered.

For problems as in GSM8K (Cobbe et al. 2021, arXiv:2110.14168), whose answers carry their arithmetic as
``<<48/2=24>>24`` and close with ``#### 72``. Only problems are taken whose numbers all follow from those of the
question, by annotations that are right, so that what comes out is right too.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

#: What a piece of text is: the same in both, a number that the question gives, one that the answer says, a name.
KINDS = ("same", "given", "answered", "name")

_TRIES = 400  # draws of new numbers before a problem is given up
_NUMBER = re.compile(r"\d+(?:,\d{3})+(?!\d)|\d+")
_ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
# Digits that are no whole number by themselves: decimals, shares, fractions, times, ordinals and the like.
_NOT_WHOLE = re.compile(r"\d\.\d|(?<!\d)\.\d|\d\s*%|\d\s*/\s*\d|\d:\d|\d[A-Za-z]|[A-Za-z]\d")
# Words that say a number: if the digits stand in the question too, which of both the answer means is not known.
_WORDS = {
    2: "two|twice|double|doubled|doubles|half|pair|couple|second",
    3: "three|triple|tripled|third|thirds|thrice",
    4: "four|quarter|quarters|quadruple|fourth|fourths",
    5: "five|fifth|fifths",
    6: "six|sixth|sixths",
    7: "seven|seventh|week|weeks|weekly",
    8: "eight|eighth",
    9: "nine|ninth",
    10: "ten|tenth|tenths",
    12: "twelve|dozen|dozens|year|years|yearly",
    24: "day|days|daily",
    60: "hour|hours|minute|minutes",
}
_NAMES = (
    "Anna Alice Amy Betty Carla Cindy Claire Diana Elena Ella Emily Emma Grace Hannah Helen Jane Janet Jenny Jessica "
    "Julia Karen Kate Kelly Laura Lily Linda Lisa Lucy Maria Mary Mia Molly Nancy Natalia Nina Olivia Rachel Rosa "
    "Sally Sandra Sara Sarah Sophia Susan Tina Wendy".split(),
    "Adam Alan Alex Andrew Ben Bob Brian Carl Charles Daniel Dave David Eric Frank Fred George Greg Henry Jack Jacob "
    "James Jason Jeff Jerry Jim John Josh Kevin Kyle Mark Martin Matt Max Michael Mike Nick Oliver Paul Peter Robert "
    "Ryan Sam Steve Ted Tim Toby Tom Tony Victor William".split(),
)
_NAME_PATTERN = rf"\b(?:{'|'.join(name for names in _NAMES for name in names)})\b"
_NAME = re.compile(_NAME_PATTERN)
_NUMBER_OR_NAME = re.compile(rf"{_NUMBER.pattern}|{_NAME_PATTERN}")
# What an answer may know by itself: small numbers, and those of clocks, calendars and money.
_CONSTANTS = {*range(13), 24, 30, 52, 60, 100, 365, 1000}


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text, `before` and `after` it was perturbed; `kind` is one of KINDS."""

    kind: str
    before: str
    after: str


def perturbed(question: str, answer: str, *, seed: int) -> tuple[list[Piece], list[Piece]] | None:
    """Give a problem other numbers and names.

    Numbers of the question are drawn anew, each with as many digits and as many closing zeros (0 and 1 stay); those of
    the answer are worked out from its annotations, and have as many digits as before. Names of a list become others of
    it. All is decided by `seed` and the text.

    Parameters
    ----------
    question, answer : str
        The answer with its annotations and its ``####`` line.
    seed : int

    Returns
    -------
    (list of Piece, list of Piece) or None
        Question and answer. None where the problem isn't of the kind that can be changed safely: a number that is not
        whole, that is said in words too, that no annotation explains, an annotation that is wrong, or no draw under
        which all results are positive whole numbers of as many digits.
    """
    given = sorted({_value(found[0]) for found in _NUMBER.finditer(question)})
    if not given or not _is_plain(question, answer) or _said_in_words(f"{question}\n{answer}", given):
        return None
    draw = random.Random(f"{seed}\n{question}\n{answer}")
    names = _other_names(question + answer, draw)
    for _ in range(_TRIES):
        new = {value: _drawn(value, draw) for value in given}
        if all(value == new[value] for value in given):
            return None
        if len(set(new.values())) < len(new):
            continue
        pieces = _answer_pieces(answer, new, names)
        if pieces is not None:
            return list(_changed(question, new, "given", names)), pieces
    return None


def _is_plain(question: str, answer: str) -> bool:
    """Say whether all numbers are whole, the answer closes as it should, and each sum is annotated."""
    stated = _ANNOTATION.sub("@", answer)
    return (
        _NOT_WHOLE.search(question) is None
        # "2/2=" is a sum in an answer; what is annotated is checked when it is worked out.
        and re.search(r"\d\.\d|(?<!\d)\.\d|\d\s*%|\d:\d|=\s*\$?\s*\d", stated) is None
        and re.search(r"\n#### \d[\d,]*$", answer) is not None
        and "@" in stated
    )


def _said_in_words(text: str, given: list[int]) -> bool:
    return any(re.search(rf"\b(?:{_WORDS[value]})\b", text, re.I) for value in given if value in _WORDS)


def _drawn(value: int, draw: random.Random) -> int:
    """Return another number of as many digits and as many closing zeros; 0 and 1 as they are."""
    if value < 2:
        return value
    zeros = len(str(value)) - len(str(value).rstrip("0"))
    digits = len(str(value)) - zeros
    low = 10 ** (digits - 1) if zeros or digits > 1 else 2
    while (drawn := draw.randrange(low, 10**digits)) % 10 == 0 or drawn * 10**zeros == value:
        pass
    return drawn * 10**zeros


def _answer_pieces(answer: str, new: dict[int, int], names: dict[str, str]) -> list[Piece] | None:
    """Return the pieces of an answer under new numbers of the question; None where they don't work out."""
    known = dict(new)
    pieces: list[Piece] = []
    at = 0
    # Up to each annotation, then the annotation itself, whose result is known from there on.
    for found in _ANNOTATION.finditer(answer):
        # What is said before its annotation ("5+3=<<5+3=8>>8") uses what is known already.
        if not _take(answer[at : found.start()], known, names, pieces):
            return None
        expression, result = found[1], found[2]
        before, after = _worked_out(expression, {}), _worked_out(expression, known)
        if before is None or after is None or not result.isdigit() or before != int(result):
            return None
        if after.denominator != 1 or after <= 0 or len(str(after)) != len(result):
            return None
        if known.setdefault(int(result), int(after)) != int(after):
            return None  # one number that would become two
        if not _take(found[0], known, names, pieces):
            return None
        at = found.end()
    final = _value(answer[answer.rindex("#### ") + 5 :])
    if final not in known or not _take(answer[at:], known, names, pieces):
        return None
    return pieces


def _take(text: str, known: dict[int, int], names: dict[str, str], pieces: list[Piece]) -> bool:
    """Add the pieces of a text whose numbers are known, or constants; say whether that is possible."""
    numbers = {_value(found[0]) for found in _NUMBER.finditer(text)}
    if any(value not in known and value not in _CONSTANTS for value in numbers):
        return False
    pieces.extend(_changed(text, known, "answered", names))
    return all(len(piece.before) == len(piece.after) for piece in pieces if piece.kind == "answered")


def _changed(text: str, numbers: dict[int, int], kind: str, names: dict[str, str]) -> Iterator[Piece]:
    """Yield the pieces of a text: its numbers, of that kind, its names, and what stands between and stays."""
    at = 0
    for match in _NUMBER_OR_NAME.finditer(text):
        is_number = match[0][0].isdigit()
        new = _written(numbers.get(_value(match[0]), _value(match[0])), match[0]) if is_number else names[match[0]]
        if new == match[0]:
            continue
        if match.start() > at:
            yield Piece("same", text[at : match.start()], text[at : match.start()])
        yield Piece(kind if is_number else "name", match[0], new)
        at = match.end()
    if at < len(text):
        yield Piece("same", text[at:], text[at:])


def _other_names(text: str, draw: random.Random) -> dict[str, str]:
    there = sorted({match[0] for match in _NAME.finditer(text)})
    other: dict[str, str] = {}
    for names in _NAMES:
        mine = [name for name in there if name in names]
        free = [name for name in names if name not in there]
        other.update(zip(mine, draw.sample(free, len(mine)), strict=True))
    return other


def _value(written: str) -> int:
    return int(written.replace(",", ""))


def _written(value: int, like: str) -> str:
    return f"{value:,}" if "," in like else str(value)


def _worked_out(expression: str, known: dict[int, int]) -> Fraction | None:
    """Return the value of a sum with its numbers replaced; None where it is none of whole numbers."""
    if not re.fullmatch(r"[\d+\-*/() ]+", expression):
        return None
    try:
        return _valued(ast.parse(expression.strip(), mode="eval").body, known)
    except (SyntaxError, ZeroDivisionError, ValueError):
        return None


def _valued(node: ast.expr, known: dict[int, int]) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(known.get(value, value))
        case ast.BinOp(left=left, op=op, right=right):
            one, other = _valued(left, known), _valued(right, known)
            match op:
                case ast.Add():
                    return one + other
                case ast.Sub():
                    return one - other
                case ast.Mult():
                    return one * other
                case ast.Div():
                    return one / other
    raise ValueError("no sum of whole numbers")
