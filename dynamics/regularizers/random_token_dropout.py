"""The control of EntroDrop that drops any token."""

from __future__ import annotations

from typing import Literal

from dynamics.regularizers.token_dropout import TokenDropout, TokenDropoutSettings


class RandomTokenDropoutSettings(TokenDropoutSettings):
    """The control that drops any predicted token."""

    name: Literal["random_token_dropout"] = "random_token_dropout"


class RandomTokenDropout(TokenDropout):
    """The control that drops any predicted token; parameters as for `EntroDrop`, without pool and signal."""

    settings_model = RandomTokenDropoutSettings
    pool_end = "any"
