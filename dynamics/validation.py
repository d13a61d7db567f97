"""Checked settings: one strict base model, and pydantic's errors as one sentence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change type by themselves, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
