"""What a door is asked to do, on which corpus and model; and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dynamics.corpus.tokenizer import train_tokenizer
from dynamics.recipe.settings import Recipe
from dynamics.records.reader import Run
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.random_token_dropout import RandomTokenDropout
from dynamics.training.pretraining import prepare_recipe
from dynamics.validation import validated
from support.models import build
from support.tiny import quiet

DOORS = ("recipe", "DynamicsTrainer", "attach", "plain loop")
TRAINERS = ("DynamicsTrainer", "attach")
RATIO = 0.3
BLOCK = 16
N_VOCAB = 270

Example = dict[str, Any]
#: Brings weights that a training kept back, as a model in float64, with no code of the library.
Load = Callable[[Path], torch.nn.Module]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A recipe's corpus and model, and its sequences as examples."""

    corpus: Path
    held_out: Path
    model: Path
    train: list[Example]
    validation: list[Example]

    def recipe(self, training: dict[str, Any], regularizers: Sequence[dict[str, Any]] = (), **changes: Any) -> Recipe:
        """A recipe on this corpus and model."""
        fields = {
            "name": "doors",
            "corpus": str(self.corpus),
            "validation": {"source": str(self.held_out)},
            "tokenizer": str(self.corpus.parent / "model"),
            "model": {"name": str(self.model)},
            "block_size": BLOCK,
            "recording": {"dtype": "float32"},
            "regularizers": list(regularizers),
            "training": training,
            **changes,
        }
        return validated(Recipe, fields, where="doors")

    def fresh(self) -> PreTrainedModel:
        """The starting model."""
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        return model


def setting_in(folder: Path) -> Setting:
    """Write a corpus, and a model with its tokenizer, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["north", "wind", "and", "sun", "argue", "who", "is", "strong", "cloak", "warm", "cold", "road"]
    rng = np.random.default_rng(3)
    for name, n_documents in (("corpus", 7), ("held_out", 4)):
        (folder / name).mkdir()
        for at in range(n_documents):
            chosen = rng.choice(words, size=int(rng.integers(3, 9)))
            (folder / name / f"{at}.txt").write_text(f"{at} " + " ".join(chosen))
    build(vocab_size=N_VOCAB, tie_word_embeddings=False).save_pretrained(folder / "model")
    texts = [file.read_text() for file in sorted((folder / "corpus").iterdir())]
    train_tokenizer(texts, vocab_size=N_VOCAB).save_pretrained(folder / "model")
    bare = Setting(
        corpus=folder / "corpus", held_out=folder / "held_out", model=folder / "model", train=[], validation=[]
    )
    splits = prepare_recipe(bare.recipe({}), quiet()).splits
    return replace(bare, **{split: _examples(splits[split]) for split in ("train", "validation")})


def _examples(packed: Any) -> list[Example]:
    """Rows as examples: no padding, and no label where a document begins."""
    found = []
    for ids, documents in zip(packed.token_id.tolist(), packed.document_id.tolist(), strict=True):
        n = sum(document >= 0 for document in documents)
        known = [p > 0 and documents[p] == documents[p - 1] for p in range(n)]
        found.append(
            {"input_ids": ids[:n], "labels": [one if k else -100 for one, k in zip(ids[:n], known, strict=True)]}
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a door is asked to do, in words that each has its own settings for.

    Attributes
    ----------
    epochs, steps : float, int or None
        Passes over the data; or, if `steps` is given, optimiser steps.
    batch, accumulation : int
    bf16, drop_last, grouped, compiled, endless : bool
    rate : float
        Of learning.
    sgd : bool
        Plain gradient descent without clipping, in place of AdamW.
    smoothing : float
        Of the labels.
    rows : callable
        From the training examples to the data set that a trainer, or a loop, is given.
    wrap : callable
        From the starting model to the one that is trained.
    load : callable
        See `Load`.
    arguments : dict
        More TrainingArguments.
    methods : callable
        Returns new regularisers.
    seed : int
    save_at, stop_at : int, optional
        The optimiser step after which a checkpoint is written, and the one in whose middle training is interrupted.
    resume : bool
        Go on from the checkpoint in the folder.
    """

    epochs: float = 2
    steps: int | None = None
    batch: int = 4
    accumulation: int = 1
    bf16: bool = False
    drop_last: bool = False
    grouped: bool = False
    compiled: bool = False
    endless: bool = False
    rate: float = 1e-2
    sgd: bool = False
    smoothing: float = 0.0
    rows: Callable[[list[Example]], Any] | None = None
    wrap: Callable[[PreTrainedModel], Any] | None = None
    load: Load | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    methods: Callable[[], list[Regularizer]] = lambda: [RandomTokenDropout(ratio=RATIO, schedule="constant")]
    training_pass: bool = False
    seed: int = 0
    save_at: int | None = None
    stop_at: int | None = None
    resume: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The autocast type."""
        return torch.bfloat16 if self.bf16 else torch.float32


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it."""

    run: Run
    model: Any
    weights: dict[int, Path]
    load: Load
    train: list[Example]
    validation: list[Example]
    training: Training


def pretrained(folder: Path) -> torch.nn.Module:
    """What save_pretrained wrote, in float64."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


class Stream(torch.utils.data.IterableDataset):
    """Rows, once or for ever."""

    def __init__(self, rows: list[dict[str, Any]], *, endless: bool = False) -> None:
        self._rows = rows
        self._endless = endless

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from self._rows
            if not self._endless:
                return
