"""Another model than the one that is trained, of the same vocabulary, whose values a method goes by."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

from dynamics.validation import Settings


def _where_it_lies(name: str) -> str:
    # A hub name also has a slash: it is a path only where something of that name is there.
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.exists(path) else name


class OtherModel(Settings):
    """A pretrained model: a folder that save_pretrained wrote, or a hub name."""

    model: Annotated[str, Field(min_length=1), AfterValidator(_where_it_lies)]
    trust_remote_code: bool = False
