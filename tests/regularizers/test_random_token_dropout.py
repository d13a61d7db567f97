"""Baselines that are settings of random token dropout: MEAP's masking, and random replacement."""

from __future__ import annotations

import pytest
import torch
from support.batches import rows_batch, training_data
from support.models import N_VOCAB, build
from support.splitmix import uniform

from dynamics.corpus.tokenizer import train_tokenizer
from dynamics.recipe.loading import load_recipe
from dynamics.regularizers.random_token_dropout import RandomTokenDropout

DROP, REPLACEMENT = 1, 2  # the streams of its draws
SEED, EPOCH = 5, 2


def one_row(method, ids):
    """What a model is fed of a row in the second epoch, and what its table gives: ids and embeddings."""
    data = training_data(1, len(ids), seed=SEED)
    method.prepare(data)
    model = build()
    method.attach(model)
    fed = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, args: fed.append(args[0][0].tolist()))
    batch = rows_batch(data.predicted, epoch=EPOCH)
    method.begin_batch(batch)
    out = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: out.append(output[0]))
    model(input_ids=torch.tensor([ids]))
    return data.predicted[0], fed[0], out[0], model.get_input_embeddings().weight


def test_meap_by_hand():
    """Each predicted token is the mask token with probability 0.15, whatever the progress; its row learns."""
    method = RandomTokenDropout(ratio=0.15, schedule="constant", replacement="mask_token", replacement_token=7)
    ids = list(range(10, 60))
    predicted, fed, out, weight = one_row(method, ids)
    masked = [bool(predicted[p]) and uniform(SEED, DROP, EPOCH, 0, p) < 0.15 for p in range(50)]
    assert 3 <= sum(masked) <= 14
    assert fed == [7 if m else token for m, token in zip(masked, ids, strict=True)]
    torch.testing.assert_close(out, weight[fed])
    (gradient,) = torch.autograd.grad(out.sum(), weight)
    assert gradient[7].tolist() == pytest.approx([sum(masked)] * weight.shape[1])
    assert all(method.ratio(progress) == 0.15 for progress in (0.0, 0.3, 1.0))
    # The labels stay: all tokens are predicted, and divide the loss.
    assert method.token_weight(None) is None and not method.normalizes_by_kept


def test_random_replacement_by_hand():
    """Each predicted token is a uniform one of the vocabulary with probability 0.05."""
    method = RandomTokenDropout(ratio=0.05, schedule="constant", replacement="random")
    ids = list(range(10, 60))
    predicted, fed, out, weight = one_row(method, ids)
    replaced = [bool(predicted[p]) and uniform(SEED, DROP, EPOCH, 0, p) < 0.05 for p in range(50)]
    drawn = [int(uniform(SEED, REPLACEMENT, EPOCH, 0, p) * N_VOCAB) for p in range(50)]
    assert sum(replaced) >= 1
    assert fed == [d if r else token for r, d, token in zip(replaced, drawn, ids, strict=True)]
    torch.testing.assert_close(out, weight[fed])
    (gradient,) = torch.autograd.grad(out.sum(), weight)
    torch.testing.assert_close(gradient[:, 0], torch.bincount(torch.tensor(fed), minlength=N_VOCAB).float())


def test_a_byte_that_no_text_holds_can_be_the_mask_token(tmp_path):
    """0xFF is no part of UTF-8, and every tokenizer on bytes has it: as the vocabulary spells it, ÿ."""
    texts = ["ÿ is U+00FF, two bytes: C3 BF", "any text \U0001f600 at all\x00\x7f"] * 5
    tokenizer = train_tokenizer(texts, vocab_size=270)
    token = tokenizer.get_vocab()["ÿ"]
    assert token not in {one for text in texts for one in tokenizer(text)["input_ids"]}
    # One of its own: no padding, whose row learns nothing.
    assert token not in (tokenizer.pad_token_id, tokenizer.eos_token_id)
    method = RandomTokenDropout(replacement="mask_token", replacement_token="ÿ")
    method.prepare(training_data(2, 8, tokenizer=tokenizer))
    assert method._replacement_id == token


LINES = {
    "[{name: random_token_dropout, ratio: 0.15, schedule: constant, replacement: mask_token, replacement_token: ÿ}]": 0.15,
    "[{name: random_token_dropout, ratio: 0.05, schedule: constant, replacement: random}]": 0.05,
}


@pytest.mark.parametrize("line", LINES)
def test_a_recipe_says_it_in_one_line(line):
    [settings] = load_recipe("quickstart", [f"regularizers={line}"]).regularizers
    assert (settings.ratio, settings.schedule.name, settings.target) == (LINES[line], "constant", "input")
