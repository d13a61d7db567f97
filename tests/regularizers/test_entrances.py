"""Dropped tokens enter nowhere: in every family, in models with further entrances, under adapters, in plain modules."""

import peft
import pytest
import torch
from support.batches import rows_batch, training_data
from support.models import FAMILIES, N_VOCAB, PAD, Padder, build, examples
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BltConfig,
    DeepseekV4Config,
    Gemma3nTextConfig,
    Gemma4TextConfig,
    Qwen4ExpTextConfig,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.neftune import activate_neftune

from dynamics import attach
from dynamics.errors import InputError
from dynamics.regularizers.attention_dropout import AttentionDropout
from dynamics.regularizers.entrances import neutral_token, place_of_ids, replace_embeddings, second_embeddings
from dynamics.regularizers.entrodrop import EntroDrop
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.probe import dependence_on_dropped
from dynamics.regularizers.random_token_dropout import RandomTokenDropout

REPLACEMENTS = {
    "zero": {},
    "mean": {"replacement": "mean"},
    "token": {"replacement": "token", "replacement_token": 7},
    "random": {"replacement": "random"},
}
_SHAPE = {
    "vocab_size": N_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
_PER_LAYER = {"vocab_size_per_layer_input": N_VOCAB - 4, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}


def further_entrances(name):
    """Models in which ids are read in more than one place."""
    match name:
        case "gemma3n":
            config = Gemma3nTextConfig(
                **_SHAPE, **_PER_LAYER, intermediate_size=48, laurel_rank=4, activation_sparsity_pattern=[0.0, 0.0]
            )
        case "gemma4":
            config = Gemma4TextConfig(**_SHAPE, **_PER_LAYER, intermediate_size=48, global_head_dim=16)
        case "deepseek_v4-hashed-experts":
            config = DeepseekV4Config(
                **{**_SHAPE, "num_key_value_heads": 1},
                moe_intermediate_size=16,
                q_lora_rank=16,
                n_routed_experts=4,
                num_experts_per_tok=2,
                o_groups=2,
                o_lora_rank=8,
                index_n_heads=2,
                index_head_dim=16,
                partial_rotary_factor=0.5,
                layer_types=["sliding_attention"] * 2,
                mlp_layer_types=["hash_moe"] * 2,
            )
        case "qwen4-ngrams":
            config = Qwen4ExpTextConfig(
                **_SHAPE,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
                num_experts=4,
                num_experts_per_tok=2,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                hc_count=2,
                hc_lowrank=4,
                layer_types=["linear_attention"] * 2,
                ple_layer_ids=[1, 2],
                ple_embed_dim=32,
                heads_per_ngram=2,
                ngram_vocab_size_base=50,
                make_ngram_vocab_size_divisible_by=4,
                split_ngram_parts=4,
                indexer_n_heads=2,
                indexer_kv_heads=1,
                indexer_head_dim=16,
                indexer_budget=16,
                indexer_compress_ratio=4,
            )
        case "blt-hashed-bytes":
            part = {"num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 48, "hidden_size": 32}
            config = BltConfig(
                vocab_size=260,
                encoder_hash_byte_group_size=[3, 4],
                encoder_hash_byte_group_vocab=50,
                patcher_config=part,
                encoder_config={**part, "hidden_size_global": 32},
                decoder_config={**part, "hidden_size_global": 32},
                global_config=part,
                use_cache=False,
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(8.0)
                elif not parameter.any():  # a scale that training would open
                    parameter.fill_(0.5)
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("tid2eid"):  # which experts a token has: from a checkpoint
                    buffer.copy_(torch.stack([torch.randperm(4)[:2] for _ in range(len(buffer))]))
    return model.eval()


FURTHER = ["gemma3n", "gemma4", "deepseek_v4-hashed-experts", "qwen4-ngrams", "blt-hashed-bytes"]


def logits_of(model):
    return lambda ids: model(input_ids=ids).logits


def dependence(model, method, n_vocab=N_VOCAB):
    return dependence_on_dropped(logits_of(model), n_vocab, method.armed_with)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("name", [*FAMILIES, *FURTHER])
def test_logits_do_not_depend_on_dropped_tokens(name, replacement):
    model = build(name).eval() if name in FAMILIES else further_entrances(name)
    n_vocab = model.config.vocab_size
    method = RandomTokenDropout(**REPLACEMENTS[replacement])
    handles = method.attach(model)
    assert dependence(model, method, n_vocab) == 0.0
    for handle in handles:
        handle.remove()
    assert dependence(model, method, n_vocab) > 1e-3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", FURTHER)
def test_the_first_table_alone_is_not_enough(name):
    model = further_entrances(name)
    method = RandomTokenDropout()
    model_hook, *_ = method.attach(model)
    model_hook.remove()  # what replaces the ids
    assert dependence(model, method, model.config.vocab_size) > 1e-4


@pytest.mark.parametrize("name", ["gemma3n", "gemma4"])
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_the_second_table_gives_what_the_first_does(name, replacement):
    model = further_entrances(name)
    data = training_data(4, 20, tokenizer=[None] * N_VOCAB)
    method = RandomTokenDropout(ratio=0.5, schedule="constant", **REPLACEMENTS[replacement])
    method.prepare(data)
    method.attach(model)
    second = model.model.embed_tokens_per_layer
    assert second in second_embeddings(model, model.get_input_embeddings())
    rows = second(torch.arange(N_VOCAB - 4)).detach()
    seen = []
    second.register_forward_hook(lambda module, args, output: seen.append((args[0], output.detach())))
    ids = torch.randint(3, N_VOCAB - 4, (4, 20), generator=torch.Generator().manual_seed(0))
    batch = rows_batch(data.predicted)
    method.begin_batch(batch)
    model(input_ids=ids)
    [(given, output)] = seen
    mask = method.dropped(batch)
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(output[~mask], rows[ids[~mask]])
    expected = {"zero": torch.zeros_like(rows[0]), "mean": rows.mean(0), "token": rows[7]}
    if replacement == "random":
        torch.testing.assert_close(output, rows[given])
        assert len(given[mask].unique()) > 5
    else:
        torch.testing.assert_close(output[mask], expected[replacement].expand_as(output[mask]))


def test_tables_of_positions_are_left_alone():
    model = build("gpt2").eval()
    data = training_data(4, 20)
    method = RandomTokenDropout(ratio=0.5, schedule="constant")
    method.prepare(data)
    method.attach(model)
    positions = torch.arange(20).expand(4, 20)
    seen = []
    model.transformer.wpe.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    method.begin_batch(rows_batch(data.predicted))
    model(input_ids=torch.randint(3, 60, (4, 20)), position_ids=positions)
    assert torch.equal(seen[0], model.transformer.wpe.weight[positions])


# Adapters. peft asks for a property that transformers has renamed.

RENAMED = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@RENAMED
@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False),
        peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 20, 21, 22]),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["lora", "saved", "trainable-tokens", "prefix"],
)
def test_under_adapters(config, replacement):
    model = peft.get_peft_model(build("llama"), config).eval()
    method = RandomTokenDropout(**REPLACEMENTS[replacement])
    handles = method.attach(model)
    assert dependence(model, method) == 0.0
    for handle in handles:
        handle.remove()
    assert dependence(model, method) > 1e-3


@RENAMED
def test_the_mean_under_an_adapter_is_the_mean_of_what_it_gives():
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False)
    model = peft.get_peft_model(build("llama"), config).eval()
    embedding = model.get_input_embeddings()
    every = embedding(torch.arange(N_VOCAB)).detach()
    method = RandomTokenDropout(replacement="mean")
    method.attach(model)
    with method.armed_with(torch.ones(1, 5, dtype=torch.bool)):
        got = embedding(torch.full((1, 5), 9))
    torch.testing.assert_close(got, every.mean(0).expand_as(got))


@RENAMED
@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    ],
    ids=["prompt-tuning", "p-tuning"],
)
def test_virtual_tokens_go_before_masked_ones(config):
    model = peft.get_peft_model(build("llama"), config).eval()
    method = RandomTokenDropout()
    handles = method.attach(model)
    assert model(input_ids=torch.zeros(1, 5, dtype=torch.int64)).logits.shape[1] == 8
    assert dependence(model, method) == 0.0
    for handle in handles:
        handle.remove()
    assert dependence(model, method) > 1e-3


# Plain modules.


class Plain(nn.Module):
    """In the manner of nanoGPT: ids first, targets second, no interface of transformers."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(N_VOCAB, 8), nn.Embedding(64, 8)
        self.block = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, N_VOCAB, bias=False)

    def forward(self, idx, targets=None):
        hidden = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        return self.head(self.block(hidden)[0])


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_a_plain_model_is_told_its_embedding(replacement):
    torch.manual_seed(0)
    model = Plain().eval()
    method = EntroDrop(**REPLACEMENTS[replacement])
    with pytest.raises(
        InputError, match=r"Plain does not say what its input embeddings are; .* attach\(model, embedding\)"
    ):
        method.attach(model)
    handles = method.attach(model, model.wte)
    targets = torch.zeros(1, 12, dtype=torch.int64)
    assert dependence_on_dropped(lambda ids: model(ids, targets), N_VOCAB, method.armed_with) == 0.0
    for handle in handles:
        handle.remove()
    assert dependence_on_dropped(model, N_VOCAB, method.armed_with) > 1e-3


@pytest.mark.parametrize("cls", [HiddenDropout, AttentionDropout])
def test_methods_inside_layers_refuse_plain_models(cls):
    name = cls.recipe_name()
    with pytest.raises(InputError, match=f"^{name}: acts inside the layers of transformers' models, and Plain is none"):
        cls().attach(Plain())


# Pieces.


def test_labels_are_not_replaced():
    model = build("llama").train()
    method = RandomTokenDropout()
    method.attach(model)
    ids = torch.randint(3, N_VOCAB, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[:, 4:6] = True
    with method.armed_with(mask):
        output = model(input_ids=ids, labels=ids)
    by_hand = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(output.loss, by_hand)


def test_the_neutral_token_means_nothing_to_the_model():
    assert neutral_token(build("llama")) == 3  # 0 pads, 1 begins, 2 ends
    plain = Plain()
    assert neutral_token(plain) == 0
    plain.config = {"model_type": "custom", "pad_token_id": 0}
    assert neutral_token(plain) == 1
    model = build("llama")
    model.config.image_token_index, model.config.eos_token_id = 3, [4, 6]
    assert neutral_token(model) == 2


def test_where_a_model_is_given_ids():
    ids, other = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5)
    assert place_of_ids((), {"input_ids": ids, "labels": ids}, (2, 5)) == "input_ids"
    assert place_of_ids((ids, ids), {}, (2, 5)) == 0
    assert place_of_ids((other,), {"labels": ids}, (2, 5)) is None
    assert place_of_ids((ids[:, :4],), {}, (2, 5)) is None
    assert place_of_ids((), {"inputs_embeds": other}, (2, 5)) is None


def test_noise_of_neftune_is_not_left_on_dropped_tokens():
    model = build("llama").train()
    activate_neftune(model, 5.0)
    method = RandomTokenDropout(replacement="token", replacement_token=7)
    method.attach(model)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[:, 2] = True
    embedding = model.get_input_embeddings()
    with method.armed_with(mask):
        got = embedding(torch.full((2, 5), 9))
    torch.testing.assert_close(got[mask], embedding.weight[7].expand(2, -1))
    assert (got[~mask] != embedding.weight[9]).any(-1).all()


def test_replacing_keeps_the_type():
    rows = replace_embeddings(torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.tensor([[True, False]]), torch.zeros(3))
    assert rows.dtype == torch.bfloat16 and rows[0].tolist() == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("name", ["llama", "gemma4"])
def test_ids_are_replaced_in_a_trainer_of_ones_own(tmp_path, name):
    model = build(name) if name in FAMILIES else further_entrances(name)
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone()) if torch.is_grad_enabled() else None
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, max_steps=2, save_strategy="no", disable_tqdm=True
        ),
        train_dataset=[{key: [token % 50 + 4 for token in ids] for key, ids in one.items()} for one in examples(8)],
        data_collator=Padder(),
    )
    attach(trainer, RandomTokenDropout(ratio=1.0, schedule="constant"))
    trainer.train()
    # Every predicted token is the neutral one; a sequence's first has no prediction.
    assert len(seen) == 2
    for ids in seen:
        assert (ids[:, 0] != 3).all() and set(ids[:, 1:].flatten().tolist()) <= {3, PAD}
