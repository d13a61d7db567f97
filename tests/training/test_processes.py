"""Two processes on a CPU, with DDP and with FSDP2: records, masks and metrics are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.launching import launch
from support.tiny import quiet, tiny_recipe

from dynamics.recipe.loading import dump_yaml
from dynamics.records.check import check_run
from dynamics.records.reader import open_run
from dynamics.training.recipe_run import train

TESTS = Path(__file__).parents[1]
# An odd number of sequences, so that the last batch must be filled.
RECIPE = {
    "block_size": 33,
    "regularizers": [
        {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "source": "previous_epoch"},
        {"name": "masked_input_regularization"},
    ],
    "recording": {"train_sequences": "all", "validation_sequences": 31, "dtype": "float32", "training_pass": True},
}
ONE = {"num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 32}
TWO = {**ONE, "per_device_train_batch_size": 16, "ddp_backend": "gloo", "use_cpu": True}

SHARDED = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from dataclasses import replace
from pathlib import Path
from accelerate import Accelerator
from support.launching import launch
from support.tiny import quiet
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
import dynamics.training.recipe_run as run
from dynamics.training.environment.processes import leave_process_group
from dynamics.recipe.loading import load_recipe

ready = run.make_ready
seen = []

def sharded(recipe, output, reporter):
    prepared, methods, args = ready(recipe, output, reporter)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))

    def load():
        model = prepared.load_model()
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        seen.append(model)
        return model

    return replace(prepared, load_model=load), methods, args

run.make_ready = sharded
# On a CPU accelerate knows DDP alone, and would wrap a model that is sharded already.
Accelerator.prepare_model = lambda self, model, **kwargs: model
Accelerator.get_state_dict = lambda self, model, **kwargs: {
    name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.state_dict().items()
}
# Nor does its Trainer gather such a model for a checkpoint; with accelerate's own FSDP2, on a GPU, it does.
run.DynamicsTrainer._save_checkpoint = lambda self, *args, **kwargs: None
run.train(load_recipe(sys.argv[2]), Path(sys.argv[3]), reporter=quiet())
assert all(isinstance(p, DTensor) for p in seen.pop().parameters())
leave_process_group()
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same training in one process, whose batch is that of both; it fills the cache too."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(tiny_recipe(**RECIPE, training=ONE), folder, reporter=quiet())
    run = open_run(folder)
    assert run.manifest["tokens"]["train"]["n_sequences"] % 2 == 1
    return run


def recipe_file(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(tiny_recipe(**{**RECIPE, "training": TWO, **changes})))
    return path


def assert_same(run, alone):
    assert run.complete and check_run(run.path).ok and run.epochs == alone.epochs == [0, 1, 2]
    assert run.manifest["hardware"]["processes"] == 2
    assert (run.path / "epochs" / "epoch-0001" / "train-00001-of-00002.safetensors").is_file()
    for split in run.splits:
        mine, theirs = run.records(split), alone.records(split)
        assert np.array_equal(mine.sequence_id, theirs.sequence_id)
        for epoch, tolerance in ((0, 1e-5), (1, 1e-3), (2, 5e-3)):
            for name in ("loss", "entropy"):
                one, other = (getattr(records, name)(epoch) for records in (mine, theirs))
                np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=f"{split} {epoch} {name}")
    mine, theirs = run.records("train"), alone.records("train")
    # By the ranks of epoch 0, which agree to the last token; and, where nearly equal values change places, nearly so.
    assert np.array_equal(mine.dropped(1), theirs.dropped(1)) and mine.dropped(1).any()
    assert (mine.dropped(2) != theirs.dropped(2)).mean() < 1e-3
    np.testing.assert_allclose(mine.training_loss(1), theirs.training_loss(1), rtol=0, atol=2e-3)
    names = ("step", "training_loss", "auxiliary_loss", "dropped_share")
    rows = [[[row[name] for name in names] for row in one.metrics()] for one in (run, alone)]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-3, atol=1e-3)


def test_ddp_equals_one_process(tmp_path, alone):
    recipe = recipe_file(tmp_path)
    said = launch(tmp_path, ["-m", "dynamics", "train", str(recipe), "--output", "run"])
    assert "validation loss, nats per token" in said[0] and said[1] == ""
    assert_same(open_run(tmp_path / "run"), alone)


def test_fsdp2_equals_one_process(tmp_path, alone):
    recipe = recipe_file(tmp_path)
    launch(tmp_path, ["-c", SHARDED, str(TESTS), str(recipe), str(tmp_path / "run")])
    assert_same(open_run(tmp_path / "run"), alone)


def test_what_is_made_once_is_made_by_one_process(tmp_path):
    recipe = recipe_file(tmp_path, block_size=30)
    environment = {**os.environ, "DYNAMICS_CACHE": str(tmp_path / "cache")}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError) as caught:
        patch.setenv("DYNAMICS_CACHE", environment["DYNAMICS_CACHE"])
        launch(tmp_path, ["-m", "dynamics", "train", str(recipe), "--output", "run"])
    assert "the reference pass is not done yet, but 2 processes were started: first run `dynamics reference" in str(
        caught.value
    )
    assert not (tmp_path / "run").exists()


DROP_IN = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from accelerate import Accelerator
from support.models import Padder, build, examples
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments
from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder, attach
from dynamics.training.environment.processes import leave_process_group, rank, world_size

door, out, several = sys.argv[2], sys.argv[3], "fsdp" in sys.argv[4:]
args = TrainingArguments(
    out + "/trainer", num_train_epochs=2, per_device_train_batch_size=2 if several else 4, learning_rate=1e-2,
    per_device_eval_batch_size=2, max_grad_norm=0.0, report_to="none", save_strategy="no", logging_strategy="no",
    disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, optim="sgd",
    train_sampling_strategy="sequential", **({"ddp_backend": "gloo"} if several else {}),
)
args.device  # the processes meet
model = build()
if several:
    assert world_size() == 2
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    # On a CPU accelerate knows DDP alone, and would wrap a model that is sharded already.
    Accelerator.prepare_model = lambda self, model, **kwargs: model
method = EntroDrop(ratio=0.4, schedule="constant")
recorder = TokenRecorder(out + "/run", dtype="float32")
data = {"train_dataset": examples(8), "eval_dataset": examples(5, seed=1), "data_collator": Padder()}
if door == "attach":
    trainer = Trainer(model, args, **data)
    attach(trainer, recorder, method)
else:
    trainer = DynamicsTrainer(model, args, **data, recorder=recorder, regularizers=[method])
trainer.train()
leave_process_group()
"""


@pytest.mark.parametrize("door", ["attach", "subclass"])
def test_a_sharded_model_in_a_trainer_of_ones_own_equals_one_process(tmp_path, door):
    script = tmp_path / "drop_in.py"
    script.write_text(DROP_IN)
    launch(tmp_path, [str(script), str(TESTS), door, str(tmp_path / "two"), "fsdp"])
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    one = subprocess.run(
        [sys.executable, str(script), str(TESTS), door, str(tmp_path / "one")],
        env=alone,
        capture_output=True,
        text=True,
    )
    assert one.returncode == 0, one.stderr
    mine, theirs = open_run(tmp_path / "two" / "run"), open_run(tmp_path / "one" / "run")
    assert mine.complete and check_run(mine.path).ok and mine.epochs == theirs.epochs == [0, 1, 2]
    assert mine.manifest["hardware"]["processes"] == 2
    for split in ("train", "validation"):
        for epoch, tolerance in ((0, 1e-5), (1, 1e-4), (2, 1e-3)):
            for name in ("loss", "entropy"):
                got, expected = (getattr(run.records(split), name)(epoch) for run in (mine, theirs))
                np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance, err_msg=f"{split} {epoch} {name}")
    for epoch in (1, 2):
        assert np.array_equal(mine.records("train").dropped(epoch), theirs.records("train").dropped(epoch))
    assert mine.records("train").dropped(1).any()
