"""What notebooks need besides analysis and plots: open a study and say what it is, show tokens in their text."""

from __future__ import annotations

from dynamics.notebook.coloring import ColoredText, colored_text
from dynamics.notebook.finding import find_study
from dynamics.notebook.tiny import TinyLanguageModel, temporary_folder, tiny_language_model
from dynamics.notebook.token_lists import TokenList, forgotten_tokens, rebounding_passage, rebounding_tokens

__all__ = [
    "ColoredText",
    "TinyLanguageModel",
    "TokenList",
    "colored_text",
    "find_study",
    "forgotten_tokens",
    "rebounding_passage",
    "rebounding_tokens",
    "temporary_folder",
    "tiny_language_model",
]


def __dir__() -> list[str]:
    return __all__
