"""Recording and EntroDrop attached to TRL's SFTTrainer: python examples/sft_trainer.py MODEL PAIRS.jsonl OUTPUT"""

import sys

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

from dynamics import EntroDrop, TokenRecorder, attach, open_run

model_name, pairs, output = sys.argv[1:]
data = load_dataset("json", data_files=pairs, split="train")  # rows with a prompt and a completion
parts = data.train_test_split(test_size=0.25, seed=0)

trainer = SFTTrainer(
    model_name,
    args=SFTConfig(
        f"{output}/trainer",
        num_train_epochs=3,
        learning_rate=1e-3,
        max_length=256,
        per_device_eval_batch_size=len(parts["test"]),  # one batch, so that eval_entropy is a mean over tokens
        bf16=torch.cuda.is_available(),
        report_to="none",
    ),
    train_dataset=parts["train"],
    eval_dataset=parts["test"],
)
attach(trainer, TokenRecorder(f"{output}/run"), EntroDrop(ratio=0.15, pool=0.5, schedule="linear"))
trainer.train()

records = open_run(f"{output}/run").records("validation")
print(f"recorded entropy {records.entropy(3)[records.predicted].mean():.5f} nats per token")
print(f"TRL eval_entropy {trainer.evaluate()['eval_entropy']:.5f}")
