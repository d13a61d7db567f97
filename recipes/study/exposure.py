"""Whether the study's model may have seen the study's texts: its loss on them, and on texts that it cannot have seen.

    python -m recipes.study.exposure --gsm8k FOLDER [--documents 48] [--problems 96] [--output studies/exposure.json]

Each document stands alone, cut after 256 tokens, and its end-of-text token is left out. The precision is that of the
recipes, as of epoch 0 of their runs. Measured are

- the training and validation documents of both studies, by their recipes;
- this repository's own documentation and source, written after the model came out, beside the Python reference and
  the standard library;
- problems as GSM8K has them, with other numbers and names (`recipes.study.perturbed`), beside the same problems as
  they are: what was learned by heart shows as a lower loss on the originals.

Only numbers are written, no text. FOLDER holds train.jsonl and test.jsonl. Ten minutes on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dynamics.corpus.builtin import python_documents
from dynamics.corpus.sources import Document, corpus_hash, load_documents
from dynamics.corpus.tokenizer import EncodedDocument, encode_documents, load_tokenizer, pad_id
from dynamics.errors import InputError
from dynamics.recipe.loading import load_recipe
from recipes.study.perturbed import KINDS, Piece, perturbed

ROOT = Path(__file__).resolve().parents[2]
# By study, the recipe that says what it is of.
RECIPES = {
    "python-reference": Path(__file__).resolve().parents[1] / "example.yaml",
    "mathematics": Path(__file__).resolve().parent / "mathematics.yaml",
}
LONGEST = 256  # tokens of a document that are looked at: a sequence of the study's runs
TEMPLATE = ("Question: ", "\nAnswer: ")  # around question and answer, as in the study's recipe
# Sets of one kind of text: trained on and not, old and written after the model.
TOLD_APART = (
    ("python-reference: train", "python-reference: validation"),
    ("mathematics: train", "mathematics: validation"),
    ("python-reference: train", "this repository: documentation"),
    ("standard library: source", "this repository: source"),
)
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """A document's predicted tokens: the loss in nats, and the bytes each stands for; (n_tokens,) each."""

    nats: np.ndarray
    byte_start: np.ndarray
    byte_end: np.ndarray


Measure = Callable[[Sequence[str]], list[Losses]]


def main(argv: list[str] | None = None) -> int:
    """Measure all, and write the numbers; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--documents", type=int, default=48, help="of each set, those of the lowest content hash")
    parser.add_argument("--problems", type=int, default=96, help="that are perturbed, of each part of GSM8K")
    parser.add_argument("--seed", type=int, default=0, help="of the perturbed problems")
    parser.add_argument("--output", type=Path, default=ROOT / "studies" / "exposure.json")
    options = parser.parse_args(argv)
    try:
        if min(options.documents, options.problems) < 2:
            raise InputError("--documents and --problems: an interval over documents needs at least 2")
        texts = study_texts(options.gsm8k)
        measure, model = measured_by_the_model()
        counts = {"documents": options.documents, "problems": options.problems}
        found = exposure(texts, pairs_of(options.gsm8k), measure, **counts, seed=options.seed)
    except (InputError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"model": model, **found}, indent=1) + "\n")
    print(f"written: {options.output}")
    return 0


# ------------------------------------------------------------------------------------------------ the texts


def study_texts(gsm8k: Path) -> dict[str, list[Document]]:
    """Return the documents of both studies by their recipes, and those of this repository."""
    mathematics = [
        f"corpus.source={json.dumps(str(gsm8k / 'train.jsonl'))}",
        f"validation.domain.source={json.dumps(str(gsm8k / 'test.jsonl'))}",
    ]
    texts: dict[str, list[Document]] = {}
    for study, overrides in (("python-reference", []), ("mathematics", mathematics)):
        for part, docs in recipe_documents(RECIPES[study], overrides).items():
            texts[f"{study}: {part}"] = docs
    texts["this repository: documentation"] = sections([ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    texts["this repository: source"] = [Document(*found) for found in python_documents(ROOT / "dynamics")]
    texts["standard library: source"] = load_documents("builtin:python-source")
    return texts


def recipe_documents(recipe: Path, overrides: Sequence[str]) -> dict[str, list[Document]]:
    """Return what a recipe trains and validates on, by part; a part for tuning counts as neither."""
    from dynamics.training.preparation.documents import domain_documents

    parts, _ = domain_documents(load_recipe(recipe, overrides))
    return {part: docs for part, docs in parts.items() if part != "tuning"}


def sections(files: Sequence[Path]) -> list[Document]:
    """Return the sections of Markdown files, from one heading to the next, without the shortest."""
    cut = []
    for file in files:
        for number, section in enumerate(file.read_text(encoding="utf-8").split("\n## ")):
            if len(section) >= 200:
                cut.append(Document(section, f"{file.name}: section {number}"))
    return cut


def pairs_of(gsm8k: Path) -> dict[str, list[tuple[str, str]]]:
    """Return questions and answers of both parts, those of the lowest content hash first."""
    found = {}
    for part in ("train", "test"):
        docs = load_documents(str(gsm8k / f"{part}.jsonl"), template="{question}{answer}", keep=["question", "answer"])
        docs = sorted(docs, key=lambda doc: doc.content_hash)
        found[part] = [(str(dict(doc.kept)["question"]), str(dict(doc.kept)["answer"])) for doc in docs]
    return found


# ------------------------------------------------------------------------------------------------ the model


def measured_by_the_model() -> tuple[Measure, dict[str, Any]]:
    """Return what measures texts by the model that the study's recipes name, and what that model is."""
    from dynamics.training.head.pretrained import model_hash, pretrained_model

    recipe = load_recipe(RECIPES["python-reference"])
    named = recipe.model
    model = pretrained_model(named.name, trust_remote_code=False, key="model.name", trust_key="model.trust_remote_code")
    if model_hash(model) != named.hash:
        raise InputError(f"model.hash: {named.name!r} has other weights; make it with recipes/study/pretrained.py")
    assert isinstance(recipe.tokenizer, str)
    bf16 = bool(recipe.training.get("bf16"))
    facts = {"name": named.name, "hash": named.hash, "precision": "bfloat16" if bf16 else "float32"}
    return measuring(model.eval(), load_tokenizer(recipe.tokenizer), bf16=bf16), facts


def measuring(model: Any, tokenizer: Any, *, bf16: bool = False) -> Measure:
    """Return what measures texts: a function of texts that returns the losses of each, in their order."""
    import torch

    from dynamics.training.loop.clean_pass import evaluate_tokens

    dtype = torch.bfloat16 if bf16 else torch.float32

    def measure(texts: Sequence[str]) -> list[Losses]:
        encoded = encode_documents(tokenizer, texts)
        # By length, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].token_id))
        found: dict[int, Losses] = {}
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            token_id, labels = _rows([encoded[i] for i in batch], pad_id(tokenizer))
            loss = evaluate_tokens(model, token_id, labels, batch_size=_BATCH, dtype=dtype).loss
            for row, i in enumerate(batch):
                n = int((labels[row] >= 0).sum())
                found[i] = Losses(
                    loss[row, 1 : n + 1].astype(np.float64),
                    encoded[i].byte_start[1 : n + 1],
                    encoded[i].byte_end[1 : n + 1],
                )
        return [found[i] for i in range(len(texts))]

    return measure


def _rows(encoded: Sequence[EncodedDocument], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and labels of shape (n_documents, longest): each from its own start, without its end of text."""
    lengths = [min(len(one.token_id) - 1, LONGEST) for one in encoded]
    token_id = np.full((len(encoded), max(lengths)), padding, dtype=np.int32)
    labels = np.full(token_id.shape, -100, dtype=np.int64)
    for row, (one, length) in enumerate(zip(encoded, lengths, strict=True)):
        token_id[row, :length] = one.token_id[:length]
        labels[row, 1:length] = one.token_id[1:length]
    return token_id, labels


# ------------------------------------------------------------------------------------------------ the numbers


def exposure(
    texts: dict[str, list[Document]],
    found: dict[str, list[tuple[str, str]]],
    measure: Measure,
    *,
    documents: int,
    problems: int,
    seed: int,
) -> dict[str, Any]:
    """Return all numbers: the loss of every set of texts, and of problems less those that were perturbed."""
    result: dict[str, Any] = {
        "design": {
            "documents": documents,
            "problems": problems,
            "tokens_at_most": LONGEST,
            "seed": seed,
            "level": 0.95,
        },
        "sets": {},
        "perturbed": {},
    }
    for name, docs in texts.items():
        taken = sorted(docs, key=lambda doc: doc.content_hash)[:documents]
        losses = [one for one in measure([doc.text for doc in taken]) if len(one.nats)]
        result["sets"][name] = {"corpus_hash": corpus_hash(taken), **set_numbers(losses)}
        print(f"{name}: {result['sets'][name]['nats_per_token']}", flush=True)
    result["differences"] = differences(result["sets"])
    for part, pairs in found.items():
        result["perturbed"][f"mathematics: {part}"] = compared(pairs, measure, documents=problems, seed=seed)
        print(f"{part}, less perturbed: {result['perturbed'][f'mathematics: {part}']}", flush=True)
    return result


def set_numbers(losses: Sequence[Losses]) -> dict[str, Any]:
    """Return nats per token and bits per byte of a set, with 95 % intervals over its documents."""
    nats = np.array([one.nats.sum() for one in losses])
    tokens = np.array([len(one.nats) for one in losses])
    n_bytes = np.array([one.byte_end[-1] - one.byte_start[0] for one in losses])
    return {
        "documents": len(losses),
        "tokens": int(tokens.sum()),
        "nats_per_token": ratio(nats, tokens),
        "bits_per_byte": ratio(nats / np.log(2), n_bytes),
    }


def ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """Return a ratio of sums over documents, and its interval by linearisation (Cochran 1977, section 6.4)."""
    estimate = above.sum() / below.sum()
    residuals = above - estimate * below
    error = np.sqrt(residuals.var(ddof=1) / len(above)) / below.mean()
    return _interval(estimate, error, len(above) - 1)


def paired(differences: np.ndarray) -> dict[str, float] | None:
    """Return the mean of documents' differences, and its t interval; None of fewer than two."""
    if len(differences) < 2:
        return None
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return {**_interval(differences.mean(), error, len(differences) - 1), "documents": len(differences)}


def _interval(estimate: float, error: float, degrees: float) -> dict[str, float]:
    half = float(stats.t.ppf(0.975, degrees)) * float(error)
    return {key: round(float(value), 6) for key, value in
            (("estimate", estimate), ("low", estimate - half), ("high", estimate + half))}  # fmt: skip


def difference(one: dict[str, float], other: dict[str, float], n: tuple[int, int]) -> dict[str, float]:
    """Return the difference of two sets' intervals of `ratio`, of so many documents each (Welch 1947)."""
    degrees = np.array(n) - 1
    half = np.array([(found["high"] - found["low"]) / 2 for found in (one, other)])
    squares = (half / stats.t.ppf(0.975, degrees)) ** 2
    together = squares.sum() ** 2 / (squares**2 / degrees).sum() if squares.any() else degrees.min()
    return _interval(one["estimate"] - other["estimate"], np.sqrt(squares.sum()), float(together))


def differences(sets: dict[str, Any]) -> dict[str, Any]:
    """Return the differences of sets that are told apart by what the model may have seen."""
    return {
        f"{one} less {other}": {
            measure: difference(
                sets[one][measure], sets[other][measure], (sets[one]["documents"], sets[other]["documents"])
            )
            for measure in ("nats_per_token", "bits_per_byte")
        }
        for one, other in TOLD_APART
    }


def compared(pairs: Sequence[tuple[str, str]], measure: Measure, *, documents: int, seed: int) -> dict[str, Any]:
    """Return the loss of problems less that of the same ones perturbed, in nats per token, over documents.

    ``all`` is of whole documents; the other keys of the tokens that touch pieces of that kind (`perturbed.KINDS`).
    Positive where the perturbed problem is the easier one; what was learned by heart makes them negative.
    """
    changed: list[list[Piece]] = []
    tried = 0
    for question, answer in pairs:
        if len(changed) == documents:
            break
        tried += 1
        both = perturbed(question, answer, seed=seed)
        if both is not None:
            lead, between = (Piece("same", text, text) for text in TEMPLATE)
            changed.append([lead, *both[0], between, *both[1]])
    if len(changed) < 2:
        raise InputError(f"of {tried} problems {len(changed)} can be perturbed; give more of them")
    before = measure(["".join(piece.before for piece in pieces) for pieces in changed])
    after = measure(["".join(piece.after for piece in pieces) for pieces in changed])
    rows: dict[str, list[float]] = {kind: [] for kind in ("all", *KINDS)}
    for pieces, one, other in zip(changed, before, after, strict=True):
        rows["all"].append(one.nats.mean() - other.nats.mean())
        for kind in KINDS:
            mine = of_kind(one, [(piece.kind, piece.before) for piece in pieces], kind)
            theirs = of_kind(other, [(piece.kind, piece.after) for piece in pieces], kind)
            if len(mine) and len(theirs):
                rows[kind].append(mine.mean() - theirs.mean())
    return {"tried": tried, **{kind: paired(np.array(values)) for kind, values in rows.items()}}


def of_kind(losses: Losses, pieces: Sequence[tuple[str, str]], kind: str) -> np.ndarray:
    """Return the losses of the tokens whose first byte but spaces lies in a piece of a kind.

    A space before a word belongs to its token, and says nothing of what the token is.
    """
    text = "".join(piece for _, piece in pieces).encode()
    kinds = np.repeat([KINDS.index(name) for name, _ in pieces], [len(piece.encode()) for _, piece in pieces])
    of = []
    for start, end in zip(losses.byte_start, losses.byte_end, strict=True):
        lead = len(text[start:end]) - len(text[start:end].lstrip(b" "))
        of.append(kinds[min(start + lead, end - 1)])
    return losses.nats[np.array(of, dtype=int) == KINDS.index(kind)]


if __name__ == "__main__":
    sys.exit(main())
