"""Small models of every causal architecture that transformers knows, from configurations shrunk field by field."""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

N_VOCAB = 96
#: Above this many parameters a configuration has not been shrunk.
MOST_PARAMETERS = 100_000_000

_BY_VALUE: dict[int, str] = {
    N_VOCAB: "vocab_size",
    32: "hidden_size n_embd d_model embedding_dim emb_dim embedding_size attention_hidden_size lru_width "
    "word_embed_proj_dim input_embedding_size output_embedding_size width dim hidden_dim",
    48: "intermediate_size moe_intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim dim_ff dff n_inner "
    "ffn_hidden_size d_inner feed_forward_size intermediate_size_mlp shared_expert_intermediate_size "
    "shared_intermediate_size shared_experts_intermediate_size dense_intermediate_size expert_ffn_hidden_size "
    "moe_shared_expert_intermediate_size mlp_dim",
    4: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
    "num_decoder_layers num_blocks num_attention_heads n_head n_heads num_heads encoder_attention_heads "
    "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads attention_heads "
    "n_routed_experts num_experts num_local_experts moe_num_experts linear_num_value_heads linear_num_heads "
    "swa_num_attention_heads index_n_heads rotary_dim num_query_groups",
    2: "num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads num_experts_per_tok "
    "num_experts_per_token moe_topk moe_k top_k_experts num_codebooks",
    1: "n_group topk_group num_expert_group n_shared_experts num_shared_experts moe_num_shared_experts "
    "num_mem_blocks first_k_dense_replace num_dense_layers depth",
    0: "num_nextn_predict_layers pad_token_id num_kv_shared_layers",
    8: "head_dim attention_head_dim attention_head_size dim_head d_head qk_nope_head_dim qk_rope_head_dim v_head_dim "
    "linear_key_head_dim linear_value_head_dim linear_head_dim swa_head_dim index_head_dim kv_channels "
    "mamba_d_state state_size hidden_size_per_layer_input laurel_rank adapter_rank router_hidden_size o_lora_rank "
    "mamba_dt_rank time_step_rank gated_norm_rank index_topk zero_expert_num d_rel hc_lowrank mamba_head_dim "
    "mamba_d_head mamba_headdim ssm_state_size attention_hidden",
    16: "kv_lora_rank q_lora_rank qk_head_dim sliding_window sliding_window_size attention_window_size local_attention "
    "attention_chunk_size mamba_chunk_size chunk_size block_size index_block_size mem_len prompt_length",
    64: "max_position_embeddings n_positions max_seq_len n_ctx max_target_positions max_source_positions "
    "original_max_position_embeddings",
    N_VOCAB + 1: "vocab_size_per_layer_input ngram_vocab_size_base unpadded_vocab_size pronunciation_vocab_size "
    "shape_vocab_size encoder_hash_byte_group_vocab",
}
_BY_NAME: dict[str, Any] = {name: value for value, names in _BY_VALUE.items() for name in names.split()}
_BY_NAME |= {"bos_token_id": 1, "eos_token_id": 2, "use_cache": False, "vocab_size_per_layer_input": N_VOCAB}
_BY_NAME |= {"unpadded_vocab_size": N_VOCAB, "decoder_start_token_id": 1}

#: What the shapes above do not fit, by architecture.
_LAYERS = ["linear_attention", "linear_attention", "hybrid", "linear_attention", "linear_attention", "hybrid"]
_INDEXER = {f"indexer_{name}": value for name, value in {"n_heads": 2, "kv_heads": 1, "head_dim": 8}.items()}
_INDEXER |= {"indexer_budget": 16, "indexer_compress_ratio": 4}
_BY_TYPE: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note": {"text_config": {"num_key_value_heads": 4}, "vision_config": {"adapter_out_dim": 32}}
    | {"audio_config": {"adapter_out_dim": 32}},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "reformer": {"axial_pos_embds_dim": (8, 24), "axial_pos_shape": (4, 16), "attn_layers": ["local", "lsh"] * 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4, "num_hidden_layers": 6}
    | {"layers_block_type": _LAYERS},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4, "num_hidden_layers": 6}
    | {"layers_block_type": _LAYERS, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}

# Parts of a configuration that are no model of their own.
_LEFT_AS_GIVEN = ("attn_config", "ffn_config")


def architectures() -> list[str]:
    """Every model type for which transformers has a causal language model."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def shrunk(model_type: str) -> PreTrainedConfig:
    """Return a small configuration of an architecture."""
    kind = CONFIG_MAPPING[model_type]
    return _shrunk(kind, _BY_TYPE.get(model_type, {}))


def _shrunk(kind: type[PreTrainedConfig], changes: dict[str, Any]) -> PreTrainedConfig:
    try:
        usual: Any = kind()
        known = set(vars(usual))
    except Exception:
        usual, known = None, set(getattr(kind, "__dataclass_fields__", ()))
    fields = {name: value for name, value in _BY_NAME.items() if name in known}
    for name, sub in getattr(kind, "sub_configs", {}).items():
        # What kind of part it is stands in an instance where the class leaves it open.
        part = type(getattr(usual, name, None)) if sub is AutoConfig else sub
        if isinstance(part, type) and issubclass(part, PreTrainedConfig) and name not in _LEFT_AS_GIVEN:
            with contextlib.suppress(Exception):
                fields[name] = _shrunk(part, changes.get(name, {}))
    fields |= {name: value for name, value in changes.items() if name not in fields or not isinstance(value, dict)}
    if "kv_lora_rank" in known:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    # A reader of both sides unless told.
    if "is_decoder" in known:
        fields["is_decoder"] = True
    return kind(**fields)


def small_model(model_type: str, *, seed: int = 0) -> PreTrainedModel:
    """Return a small model with random weights whose logits reach about 20.

    Raises
    ------
    Exception
        Whatever its configuration or its code raises where it cannot be built so.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = shrunk(model_type)
        with torch.device("meta"):
            n = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if n > MOST_PARAMETERS:
            raise ValueError(f"{n:,} parameters")
        config = shrunk(model_type)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.eval()
        _grow(model)
    return model


@torch.no_grad()
def _grow(model: PreTrainedModel, *, target: float = 20.0) -> None:
    """Scale what leads to the logits until the largest is about `target`, or a soft cap holds it."""
    for parameter in model.parameters():
        # Some are zero at the start (a zero router, a zero position bias), and would hide a fault.
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=0.02)
    ids = token_ids()
    head = model.get_output_embeddings()
    for _ in range(4):
        output = model(input_ids=ids)
        logits = output[0] if isinstance(output, tuple) else output.logits
        largest = float(logits.abs().max())
        if head is None or not 0 < largest < float("inf"):
            return
        for parameter in head.parameters():
            parameter.mul_(min(target / largest, 100.0))


def token_ids(*, n_rows: int = 3, n_positions: int = 24) -> torch.Tensor:
    """Return tokens, shape (n_rows, n_positions): none of them special in the small configurations."""
    return torch.randint(5, 80, (n_rows, n_positions), generator=torch.Generator().manual_seed(0))


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
