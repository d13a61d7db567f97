"""Supervised fine-tuning with TRL, by the arguments of TRL's own script of that name."""

import os

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_peft_config


def load_sets(script_args):
    """A folder with train.jsonl and test.jsonl stands for a data set of the hub."""
    name = script_args.dataset_name
    files = {
        split: os.path.join(name, f"{split}.jsonl")
        for split in (script_args.dataset_train_split, script_args.dataset_test_split)
    }
    return load_dataset("json", data_files=files, streaming=script_args.dataset_streaming)


def main():
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    dataset = load_sets(script_args)
    evaluates = training_args.eval_strategy != "no"

    trainer = SFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if evaluates else None,
        peft_config=get_peft_config(model_args),
    )

    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    if evaluates:
        trainer.log_metrics("eval", trainer.evaluate())


if __name__ == "__main__":
    main()
