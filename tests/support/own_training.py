"""What a reader brings to the snippets of README and the handbook: a small model, its data, a Trainer, a loop's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def own_training(folder: Path) -> dict[str, Any]:
    """Return the names that snippets use and do not define, such as ``trainer``, ``model`` and ``loader``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **shape))
    ids = torch.arange(12 * 8).view(12, 8) % 37
    rows = [{"input_ids": row, "labels": row} for row in ids]
    args = TrainingArguments(
        output_dir=str(folder / "trainer"),
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
    return {
        "model": model,
        "trainer": trainer,
        "args": args,
        "train": rows[:8],
        "validation": rows[8:],
        "collator": None,
        "loader": loader,
        "held_out": [{name: torch.stack([row[name] for row in rows[8:]]) for name in rows[0]}],
        "epochs": 2,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "checkpoints": [{name: weight * 1.1 for name, weight in model.state_dict().items()} for _ in range(2)],
    }
