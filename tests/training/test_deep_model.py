"""Zero replacement in a deep pre-norm model keeps finite gradients, since context-free tokens are never dropped."""

from __future__ import annotations

import numpy as np
import torch
from support.batches import rows_batch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dynamics.ops.token_statistics import shift, weighted_loss
from dynamics.regularizers.base import TrainingData
from dynamics.regularizers.random_token_dropout import RandomTokenDropout


def test_28_layers_keep_finite_gradients_and_evaluation_sees_no_mask():
    torch.manual_seed(0)
    config = Qwen3Config(
        num_hidden_layers=28,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=64,
        tie_word_embeddings=True,
        use_cache=False,
        pad_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    ids = torch.randint(0, 64, (4, 24))
    predicted = np.ones((4, 24), dtype=bool)
    predicted[:, 0] = False
    method = RandomTokenDropout(ratio=1.0, schedule="constant")
    nothing = np.zeros((4, 24), dtype=np.float32)
    method.prepare(
        TrainingData(
            token_id=ids.numpy().astype(np.int32),
            document_id=np.zeros((4, 24), dtype=np.int32),
            predicted=predicted,
            reference_loss=nothing,
            reference_entropy=nothing,
            tokenizer=None,
            seed=0,
        )
    )
    clean = model.eval()(ids).logits
    handles = method.attach(model)
    batch = rows_batch(predicted)
    assert torch.equal(model.eval()(ids).logits, clean)
    assert torch.equal(
        model.generate(ids[:, :4], max_new_tokens=3, do_sample=False),
        Qwen3ForCausalLM.generate(model, ids[:, :4], max_new_tokens=3, do_sample=False),
    )
    model.train()
    method.begin_batch(batch)
    logits = model(ids).logits
    method.end_batch()
    assert not torch.equal(logits, clean)
    labels = ids.masked_fill(~torch.from_numpy(predicted), -100)
    weighted_loss(*shift(logits, labels)).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    for handle in handles:
        handle.remove()
