"""Shapes of the models that a recipe can name: Qwen3 configurations, without their vocabulary. No torch.

The four `qwen3-*` shapes are those of the published models of that size; `nano`, `micro` and `mini` are the same
architecture, small enough to train on a laptop. The vocabulary is the tokenizer's.
"""

from __future__ import annotations


def _shape(
    *,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    tied: bool = True,
) -> dict[str, int | bool]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "tie_word_embeddings": tied,
    }


NAMED_SIZES = {
    "nano": _shape(layers=4, hidden=128, intermediate=384, heads=4, kv_heads=2, head_dim=32),
    "micro": _shape(layers=6, hidden=256, intermediate=768, heads=4, kv_heads=2, head_dim=64),
    "mini": _shape(layers=10, hidden=512, intermediate=1536, heads=8, kv_heads=4, head_dim=64),
    "qwen3-0.6b": _shape(layers=28, hidden=1024, intermediate=3072, heads=16, kv_heads=8, head_dim=128),
    "qwen3-1.7b": _shape(layers=28, hidden=2048, intermediate=6144, heads=16, kv_heads=8, head_dim=128),
    "qwen3-4b": _shape(layers=36, hidden=2560, intermediate=9728, heads=32, kv_heads=8, head_dim=128),
    "qwen3-8b": _shape(layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, tied=False),
}
