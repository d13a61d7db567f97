"""A loop of accelerate, with no Trainer: python examples/accelerate_loop.py MODEL TEXTS.jsonl OUTPUT"""

import sys

import torch
from accelerate import Accelerator
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, get_scheduler

from dynamics import EntroDrop, LoopRecorder, TokenRecorder, open_run

model_name, texts, output = sys.argv[1:]
n_epochs = 3
torch.manual_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2)
tokenizer = AutoTokenizer.from_pretrained(model_name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
data = load_dataset("json", data_files=texts, split="train").map(
    lambda row: tokenizer(row["text"], truncation=True, max_length=256), remove_columns=["text"]
)
parts = data.train_test_split(test_size=0.25, seed=0)
collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
train = DataLoader(parts["train"], batch_size=4, shuffle=True, collate_fn=collator)
validation = DataLoader(parts["test"], batch_size=4, collate_fn=collator)
model = AutoModelForCausalLM.from_pretrained(model_name)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer, train, validation = accelerator.prepare(model, optimizer, train, validation)
total_steps = n_epochs * -(-len(train) // accelerator.gradient_accumulation_steps)
scheduler = accelerator.prepare(get_scheduler("linear", optimizer, 0, total_steps * accelerator.num_processes))

precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)

with LoopRecorder(TokenRecorder(f"{output}/run"), EntroDrop(ratio=0.15, pool=0.5)) as recorder:
    recorder.begin(
        model, train=train, validation=validation, total_steps=total_steps, tokenizer=tokenizer, dtype=precision
    )
    for _ in range(n_epochs):
        model.train()
        for batch in train:
            with accelerator.accumulate(model):
                with recorder.batch(batch) as batch:
                    loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                recorder.step(learning_rate=scheduler.get_last_lr()[0])
        recorder.epoch()
    recorder.finish()

accelerator.unwrap_model(model).save_pretrained(f"{output}/model", is_main_process=accelerator.is_main_process)
if accelerator.is_main_process:
    records = open_run(f"{output}/run").records("validation")
    for epoch in range(n_epochs + 1):
        print(f"epoch {epoch}: validation loss {records.loss(epoch)[records.predicted].mean():.4f} nats per token")
accelerator.end_training()
