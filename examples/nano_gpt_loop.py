"""A small GPT of one's own in a loop of one's own: python examples/nano_gpt_loop.py TOKENIZER TEXTS.jsonl OUTPUT"""

import json
import sys

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from dynamics import EntroDrop, LoopRecorder, TokenRecorder, open_run


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to what came in."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.qkv, self.proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.ln_1(x)).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (self.n_head, -1)).transpose(1, 2) for part in parts)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Returns logits and, where targets are given, the loss; targets are the next tokens, -100 where there is none."""

    def __init__(self, n_vocab: int, block_size: int, n_layer: int = 2, n_head: int = 2, n_embd: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(n_vocab, n_embd), nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*(Block(n_embd, n_head) for _ in range(n_layer)))
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, n_vocab, bias=False)
        nn.init.normal_(self.wte.weight, std=0.02)
        self.head.weight = self.wte.weight

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None):
        x = self.blocks(self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device)))
        if targets is None:  # to generate, the last position is enough
            return self.head(self.ln_f(x[:, -1:])), None
        logits = self.head(self.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


tokenizer_name, texts, output = sys.argv[1:]
block_size, batch_size, n_epochs, learning_rate = 32, 8, 3, 3e-3
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
with open(texts) as file:
    ids = torch.tensor([token for line in file for token in tokenizer(json.loads(line)["text"])["input_ids"]])
blocks = ids[: len(ids) // block_size * block_size].view(-1, block_size)
n_train = len(blocks) * 3 // 4
train, validation = ([{"input_ids": b, "labels": b} for b in part.split(batch_size)] for part in blocks.split(n_train))
model = GPT(len(tokenizer), block_size)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)

with LoopRecorder(TokenRecorder(f"{output}/run"), EntroDrop(ratio=0.15, pool=0.5)) as recorder:
    recorder.begin(
        model,
        train=train,
        validation=validation,
        total_steps=n_epochs * len(train),
        tokenizer=tokenizer,
        logits=lambda model, idx: model(idx, idx)[0],
        embedding=model.wte,
        settings={"batch_size": batch_size, "learning_rate": learning_rate},
    )
    for _ in range(n_epochs):
        for rows in torch.randperm(n_train).split(batch_size):
            with recorder.batch({"input_ids": blocks[rows], "labels": blocks[rows]}) as batch:
                targets = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
                _, loss = model(batch["input_ids"], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(learning_rate=learning_rate)
        recorder.epoch()
    recorder.finish()

torch.save({"model": model.state_dict()}, f"{output}/model.pt")
records = open_run(f"{output}/run").records("validation")
for epoch in range(n_epochs + 1):
    loss, entropy = (values(epoch)[records.predicted].mean() for values in (records.loss, records.entropy))
    print(f"epoch {epoch}: validation loss {loss:.4f}, entropy {entropy:.4f} nats per token")
