"""What the snippets of the pages start from: a folder with runs, and a small training of the reader's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pages import ROOT


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that has the packaged study as runs/quickstart, and the summaries of the repository."""
    from dynamics import load_example

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "runs").mkdir()
    os.symlink(load_example().path, tmp_path / "runs" / "quickstart")
    os.symlink(ROOT / "studies", tmp_path / "studies")
    os.symlink(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.fixture
def own_training(desk: Path) -> Callable[[], dict[str, Any]]:
    """What a reader brings: a model, its data, a Trainer, and the parts of a loop."""

    def make() -> dict[str, Any]:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

        torch.manual_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **shape))
        ids = torch.arange(12 * 8).view(12, 8) % 37
        rows = [{"input_ids": row, "labels": row} for row in ids]
        args = TrainingArguments(
            output_dir=str(desk / "trainer"),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        trainer = Trainer(model=model, args=args, train_dataset=rows[:8], eval_dataset=rows[8:])
        trainer.remove_callback(PrinterCallback)  # it prints how long training took
        loader = [{name: torch.stack([row[name] for row in rows[i : i + 4]]) for name in rows[0]} for i in (0, 4)]
        held_out = [{name: torch.stack([row[name] for row in rows[8:]]) for name in rows[0]}]
        return {
            "model": model,
            "trainer": trainer,
            "args": args,
            "train": rows[:8],
            "validation": rows[8:],
            "collator": None,
            "loader": loader,
            "held_out": held_out,
            "epochs": 2,
            "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
            "checkpoints": [{name: w * 1.1 for name, w in model.state_dict().items()} for _ in range(2)],
        }

    return make
