"""DynamicsTrainer in place of transformers.Trainer: python examples/own_trainer.py MODEL TEXTS.jsonl OUTPUT"""

import sys

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, TrainingArguments

from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder, WeightDecay, open_run

model_name, texts, output = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model_name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
data = load_dataset("json", data_files=texts, split="train").map(
    lambda row: tokenizer(row["text"], truncation=True, max_length=256), remove_columns=["text"]
)
parts = data.train_test_split(test_size=0.25, seed=0)

trainer = DynamicsTrainer(
    model=AutoModelForCausalLM.from_pretrained(model_name),
    args=TrainingArguments(f"{output}/trainer", num_train_epochs=3, learning_rate=1e-3, report_to="none"),
    train_dataset=parts["train"],
    eval_dataset=parts["test"],
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    processing_class=tokenizer,
    regularizers=[EntroDrop(ratio=0.15, pool=0.5, schedule="linear"), WeightDecay(value=0.1)],
    recorder=TokenRecorder(f"{output}/run"),
)
trainer.train()

records = open_run(f"{output}/run").records("validation")
for epoch in range(4):
    print(f"epoch {epoch}: validation loss {records.loss(epoch)[records.predicted].mean():.4f} nats per token")
print(f"the first example: {records.text(0)!r}")
