"""The model that a recipe starts from: a named size, loaded, or pretrained first and cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dynamics.cache import cached_folder
from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.sources import Document, corpus_hash
from dynamics.corpus.tokenizer import tokenizer_hash
from dynamics.errors import InputError
from dynamics.recipe.model_settings import ModelSettings
from dynamics.recipe.settings import Recipe
from dynamics.reporting import Reporter
from dynamics.training.environment.arguments import forward_dtype, on_cuda, training_arguments
from dynamics.training.environment.hardware import float32_products, versions
from dynamics.training.environment.processes import launched
from dynamics.training.preparation.documents import pack
from dynamics.training.preparation.models import build_model, model_hash

#: Trains a model in place on sequences, with arguments and a seed, in a folder. Returns its mean loss over the last
#: epoch, in nats. It is passed in, because it needs a trainer, which this module may not import.
Pretrain = Callable[[PreTrainedModel, PackedSplit, dict[str, Any], int, Path, Reporter], float]

# Settings for pretraining a small model from scratch. `base.training` overrides each of them.
BASE_TRAINING: dict[str, Any] = {
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
}


def starting_model(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    base_docs: Sequence[Document],
    reporter: Reporter,
    pretrain: Pretrain,
) -> tuple[Callable[[], PreTrainedModel], dict[str, Any]]:
    settings = recipe.model

    def untrained() -> PreTrainedModel:
        return build_model(settings, tokenizer=tokenizer, block_size=recipe.block_size)

    if recipe.base is None:
        facts = {"name": settings.name, "hash": _hash_of(untrained(), settings)}

        def unchanged() -> PreTrainedModel:
            # A name may refer to new weights while a study is running. The next run would silently start from them.
            model = untrained()
            if model_hash(model) != facts["hash"]:
                raise InputError(
                    f"model.name: {settings.name!r} is not the model that this study or run started from; restore "
                    "it, or start from the beginning"
                )
            return model

        return unchanged, facts
    base = recipe.base
    training = {**BASE_TRAINING, **base.training, "num_train_epochs": base.epochs}
    # The starting model is pretrained on the device of the run, unless the recipe says otherwise.
    where = {"use_cpu": True} if recipe.training.get("use_cpu") and "use_cpu" not in training else {}
    cuda = on_cuda({**training, **where})
    key: dict[str, Any] = {
        "corpus": corpus_hash(base_docs),
        "tokenizer": tokenizer_hash(tokenizer),
        "untrained": _hash_of(untrained(), settings),
        "block_size": recipe.block_size,
        "seed": base.seed,
        "training": training,
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
        "cuda": cuda,
    }
    if cuda:
        args = training_arguments(training, output_dir=Path("unused"), seed=base.seed, where="base.training")
        key |= {"dtype": str(forward_dtype(args)), "float32_products": float32_products()}

    def build(path: Path) -> None:
        require_one_process("the starting model is not pretrained yet")
        model = untrained()
        loss = pretrain(
            model,
            pack(base_docs, tokenizer, recipe.block_size),
            {**training, **where},
            base.seed,
            path,
            reporter,
        )
        model.save_pretrained(path)
        (path / "facts.json").write_text(json.dumps({"hash": model_hash(model), "training_loss": loss}))

    folder, cached = cached_folder("base-models", key, build)
    facts = json.loads((folder / "facts.json").read_text())
    reporter.stage(
        f"starting model {'found in the cache' if cached else 'ready'}: {settings.name}, pretrained on "
        f"{len(base_docs):,} documents to a training loss of {facts['training_loss']:.3f}"
    )
    loaded = ModelSettings(name=str(folder))

    def pretrained() -> PreTrainedModel:
        return build_model(loaded, tokenizer=tokenizer, block_size=recipe.block_size)

    return pretrained, {"name": settings.name, "base_training": training, **facts}


def _hash_of(model: PreTrainedModel, settings: ModelSettings) -> str:
    """Return a model's hash. Raise InputError if the recipe expects another one."""
    found = model_hash(model)
    if settings.hash is not None and found != settings.hash:
        raise InputError(
            f"model.hash: the weights of {settings.name!r} (before any pretraining) have hash {found}, but the recipe "
            f"expects {settings.hash}; give the model that the recipe was written for, or remove model.hash"
        )
    return found


def require_one_process(what: str) -> None:
    if launched() > 1:
        raise InputError(
            f"{what}, but {launched()} processes were started: first run `dynamics reference RECIPE` in one process "
            "with the same $DYNAMICS_CACHE; the result is then found in the cache"
        )
