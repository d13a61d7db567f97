"""The doors and the situations: what each does in each. The tests go through it, and docs/your-own-trainer.md shows it."""

from __future__ import annotations

from dataclasses import dataclass

from support.doors.setting import DOORS


@dataclass(frozen=True)
class Cell:
    """What happens.

    Attributes
    ----------
    word : str
        In the page's table.
    refusal : str, optional
        What the one line says, where one refuses; or a part of it.
    """

    word: str
    refusal: str | None = None


EXACT = Cell("exact")
#: Two roundings of the largest logit to bf16, of the token's own and of those in the sum, as losses are of few nats.
BF16 = Cell("bf16")
#: The door has nothing that says so.
NONE = Cell("-")


def refused(word: str, line: str) -> Cell:
    """One line refuses."""
    return Cell(f"refused ({word})", line)


_OWNED = " belongs to the project"
_MAX_STEPS = refused("a", "max_steps" + _OWNED)
_FRACTION = refused("b", "num_train_epochs must be a whole number of at least 1, not 1.5: recording is by epoch")
_DROP_LAST = refused("c", "dataloader_drop_last" + _OWNED)
_EVALUATION = refused("d", "eval_strategy" + _OWNED)
_ENDLESS = refused("e", "has no length and did not end after ")
_NOT_CAUSAL = refused("f", "")


def _row(recipe: Cell, dynamics_trainer: Cell, attached: Cell, plain: Cell) -> dict[str, Cell]:
    return dict(zip(DOORS, (recipe, dynamics_trainer, attached, plain), strict=True))


_ALL = _row(EXACT, EXACT, EXACT, EXACT)
_OWN = _row(NONE, EXACT, EXACT, EXACT)

TABLE: dict[str, dict[str, Cell]] = {
    "float32": _ALL,
    "bf16 on a CPU": _row(BF16, BF16, BF16, BF16),
    "accumulation, a short last window": _ALL,
    "max_steps within an epoch": {**_ALL, "recipe": _MAX_STEPS},
    "a fractional num_train_epochs": {**_ALL, "recipe": _FRACTION},
    "dataloader_drop_last": {**_ALL, "recipe": _DROP_LAST},
    "batches by length": _ALL,
    "a stream (datasets)": _OWN,
    "a stream (torch)": _OWN,
    "an endless stream": _row(NONE, _ENDLESS, _ENDLESS, _ENDLESS),
    "LoRA on lm_head": _OWN,
    "torch_compile": _ALL,
    "evaluation, early stop, best model": {**_ALL, "recipe": _EVALUATION},
    "several evaluation sets": _row(NONE, EXACT, EXACT, NONE),
    "label_smoothing_factor": _ALL,
    "compute_loss_func": _row(NONE, EXACT, EXACT, NONE),
    "resume at the end of an epoch": _ALL,
    "resume within an epoch": _ALL,
    "two processes": _ALL,
    "a model that is not causal": _row(_NOT_CAUSAL, _NOT_CAUSAL, _NOT_CAUSAL, _NOT_CAUSAL),
}


def cells(*situations: str) -> list[tuple[str, str]]:
    """The cells of some situations that a door has anything to do with, for pytest.mark.parametrize."""
    return [(name, door) for name in situations for door in DOORS if TABLE[name][door] is not NONE]


def rendered() -> str:
    """The table as the page shows it."""
    lines = ["| | " + " | ".join(DOORS) + " |", "|---" * (len(DOORS) + 1) + "|"]
    for name, row in TABLE.items():
        lines.append(f"| {name} | " + " | ".join(row[door].word for door in DOORS) + " |")
    return "\n".join(lines) + "\n"
