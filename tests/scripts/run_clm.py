"""Causal language modelling with the Trainer, by the arguments of transformers' own example of that name."""

import logging
import math
import os
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Weights to start from; none: from scratch"})
    config_name: str | None = None
    config_overrides: str | None = field(default=None, metadata={"help": "n_embd=10,resid_pdrop=0.2"})
    tokenizer_name: str | None = None


@dataclass
class DataTrainingArguments:
    train_file: str = field(metadata={"help": "txt, json or csv"})
    validation_file: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    streaming: bool = False
    block_size: int | None = None


def load_model(arguments: ModelArguments):
    config = AutoConfig.from_pretrained(arguments.config_name or arguments.model_name_or_path)
    if arguments.config_overrides is not None:
        config.update_from_string(arguments.config_overrides)
    if arguments.model_name_or_path is None:
        return AutoModelForCausalLM.from_config(config)
    return AutoModelForCausalLM.from_pretrained(arguments.model_name_or_path, config=config)


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO)

    last_checkpoint = None
    if os.path.isdir(training_args.output_dir) and training_args.do_train:
        last_checkpoint = get_last_checkpoint(training_args.output_dir)
        if last_checkpoint is not None and training_args.resume_from_checkpoint is None:
            logger.info("A checkpoint was found, and training goes on from %s", last_checkpoint)
    set_seed(training_args.seed)

    files = {"train": data_args.train_file}
    if data_args.validation_file is not None:
        files["validation"] = data_args.validation_file
    kind = data_args.train_file.rpartition(".")[2].replace("txt", "text").replace("jsonl", "json")
    raw = load_dataset(kind, data_files=files, streaming=data_args.streaming)
    tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or model_args.model_name_or_path)
    model = load_model(model_args)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    block_size = data_args.block_size or min(tokenizer.model_max_length, 1024)

    def tokenize(rows):
        return tokenizer(rows["text"])

    def group_texts(rows):
        joined = {key: list(chain(*values)) for key, values in rows.items()}
        usable = len(joined["input_ids"]) // block_size * block_size
        blocks = {key: [all_[i : i + block_size] for i in range(0, usable, block_size)] for key, all_ in joined.items()}
        blocks["labels"] = [list(ids) for ids in blocks["input_ids"]]
        return blocks

    columns = list(next(iter(raw["train"])))
    blocks = raw.map(tokenize, batched=True, remove_columns=columns).map(group_texts, batched=True)
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples}
    sets = {}
    for split, dataset in blocks.items():
        limit = limits[split]
        if limit is not None:
            dataset = dataset.take(limit) if data_args.streaming else dataset.select(range(min(len(dataset), limit)))
        sets[split] = dataset

    def preprocess_logits_for_metrics(logits, labels):
        # Only the guesses are kept: the logits of a whole evaluation would not fit.
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)

    def compute_metrics(evaluated):
        guesses, labels = evaluated
        return {"accuracy": float(np.mean(guesses[:, :-1] == labels[:, 1:]))}

    evaluates = training_args.do_eval
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=sets["train"] if training_args.do_train else None,
        eval_dataset=sets["validation"] if evaluates else None,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics if evaluates else None,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics if evaluates else None,
    )

    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint or last_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if evaluates:
        metrics = trainer.evaluate()
        metrics["perplexity"] = math.exp(metrics["eval_loss"])
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
