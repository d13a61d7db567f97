"""Instruction tuning in the manner of Stanford Alpaca's train.py: prompts masked, rows made beforehand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import transformers
from torch.utils.data import Dataset
from transformers import Trainer

IGNORE_INDEX = -100
PROMPT = "Answer as the task asks.\n\n### Task:\n{instruction}\n\n### Answer:"
PROMPT_WITH_INPUT = "Answer as the task asks.\n\n### Task:\n{instruction}\n\n### Input:\n{input}\n\n### Answer:"


@dataclass
class ModelArguments:
    model_name_or_path: str = field(default="gpt2")


@dataclass
class DataArguments:
    data_path: str = field(metadata={"help": "a JSON list of objects with instruction, input and output"})


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    model_max_length: int = field(default=128)


def preprocess(sources: Sequence[str], targets: Sequence[str], tokenizer) -> dict:
    """Token ids of each source with its target; the source's part has no label."""

    def ids_of(text):
        found = tokenizer(text, return_tensors="pt", truncation=True, max_length=tokenizer.model_max_length)
        return found.input_ids[0]

    input_ids = [ids_of(source + target) for source, target in zip(sources, targets, strict=True)]
    labels = [ids.clone() for ids in input_ids]
    for label, source in zip(labels, sources, strict=True):
        label[: len(ids_of(source))] = IGNORE_INDEX
    return {"input_ids": input_ids, "labels": labels}


class SupervisedDataset(Dataset):
    """All rows, tokenised once."""

    def __init__(self, data_path: str, tokenizer):
        with open(data_path) as file:
            rows = json.load(file)
        sources = [(PROMPT_WITH_INPUT if row.get("input") else PROMPT).format_map(row) for row in rows]
        targets = [row["output"] + tokenizer.eos_token for row in rows]
        made = preprocess(sources, targets, tokenizer)
        self.input_ids, self.labels = made["input_ids"], made["labels"]

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, i) -> dict:
        return {"input_ids": self.input_ids[i], "labels": self.labels[i]}


@dataclass
class DataCollatorForSupervisedDataset:
    """Pads a batch on the right."""

    tokenizer: transformers.PreTrainedTokenizer

    def __call__(self, rows: Sequence[dict]) -> dict:
        pad, pad_id = torch.nn.utils.rnn.pad_sequence, self.tokenizer.pad_token_id
        input_ids = pad([row["input_ids"] for row in rows], batch_first=True, padding_value=pad_id)
        labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORE_INDEX)
        return {"input_ids": input_ids, "labels": labels, "attention_mask": input_ids.ne(pad_id)}


def train():
    parser = transformers.HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    model = transformers.AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        model_args.model_name_or_path, model_max_length=training_args.model_max_length, padding_side="right"
    )
    data_module = {
        "train_dataset": SupervisedDataset(data_args.data_path, tokenizer),
        "eval_dataset": None,
        "data_collator": DataCollatorForSupervisedDataset(tokenizer),
    }
    trainer = Trainer(model=model, processing_class=tokenizer, args=training_args, **data_module)
    trainer.train()
    trainer.save_state()
    trainer.save_model(output_dir=training_args.output_dir)


if __name__ == "__main__":
    train()
