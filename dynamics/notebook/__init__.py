"""What notebooks need besides analysis and plots: open a study and say what it is, show tokens in their text."""

from __future__ import annotations

from dynamics.faces import lazy_face

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    # isort: off
    from dynamics.notebook.coloring import ColoredText as ColoredText, colored_text as colored_text
    from dynamics.notebook.finding import find_study as find_study
    from dynamics.notebook.tiny import (
        TinyLanguageModel as TinyLanguageModel,
        temporary_folder as temporary_folder,
        tiny_language_model as tiny_language_model,
    )
    from dynamics.notebook.token_lists import (
        TokenList as TokenList,
        forgotten_tokens as forgotten_tokens,
        rebounding_passage as rebounding_passage,
        rebounding_tokens as rebounding_tokens,
    )
else:
    __all__, __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "dynamics.notebook.coloring": ["ColoredText", "colored_text"],
            "dynamics.notebook.finding": ["find_study"],
            "dynamics.notebook.tiny": ["TinyLanguageModel", "temporary_folder", "tiny_language_model"],
            "dynamics.notebook.token_lists": [
                "TokenList",
                "forgotten_tokens",
                "rebounding_passage",
                "rebounding_tokens",
            ],
        },
    )
