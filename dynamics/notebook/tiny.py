"""A language model of a few thousand parameters, to show training in seconds; and a folder for what it writes."""

from __future__ import annotations

import atexit
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.records.reader import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DOCUMENTS, _CHARACTERS, _TOKENS, _VOCABULARY = 100, 300, 64, 400
_VALIDATION = 0.4


@dataclass(frozen=True)
class TinyLanguageModel:
    """What a Trainer needs, very small.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerBase
        Trained on the texts, with 400 entries.
    train, validation : list of dict
        ``{"input_ids": [...]}``, up to 64 tokens each.
    """

    tokenizer: PreTrainedTokenizerBase
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]

    def model(self) -> PreTrainedModel:
        """Return a new Llama model of two layers, 32 wide; the same weights each time."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LlamaForCausalLM(config)


def tiny_language_model(study: Study) -> TinyLanguageModel:
    """Return a tokenizer, texts and a very small model, made from the validation texts of a study.

    Parameters
    ----------
    study : Study
        Its first run gives the texts.

    Raises
    ------
    InputError
        If the study is a summary, which keeps no text.
    """
    from dynamics.corpus.tokenizer import train_tokenizer

    records = next(iter(study.runs.values())).records("validation")
    texts = [records.document_text(d)[:_CHARACTERS] for d in range(min(_DOCUMENTS, records.n_documents))]
    tokenizer = train_tokenizer(texts, vocab_size=_VOCABULARY)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    examples = [{"input_ids": ids[:_TOKENS]} for ids in tokenizer(texts)["input_ids"] if len(ids) > 1]
    n_validation = max(1, int(len(examples) * _VALIDATION))
    return TinyLanguageModel(tokenizer, examples[n_validation:], examples[:n_validation])


def temporary_folder() -> Path:
    """Return a new folder that is deleted when the session ends."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)
