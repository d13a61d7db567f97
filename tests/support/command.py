"""The `dynamics` command, run in the test's own process."""

from __future__ import annotations

import shlex
import sys
from typing import NamedTuple

import pytest

from dynamics import cli


class Done(NamedTuple):
    """What a command did; the next steps that it suggests are no part of `err`, and are in `Command.next_steps`."""

    code: int
    out: str
    err: str


class Command:
    """Runs `dynamics`; `next_steps` are the commands, as lists of words, that the last one suggested."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.next_steps: list[list[str]] = []

    def __call__(self, *arguments: str) -> Done:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["dynamics", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = self._capsys.readouterr()
        err, _, steps = said.err.partition("Next:\n")
        self.next_steps = [shlex.split(line) for line in steps.splitlines()]
        return Done(int(caught.value.code or 0), said.out, err)

    def follow(self) -> list[Done]:
        """Run the next steps that are commands of `dynamics`; return what they did."""
        return [self(*step[1:]) for step in list(self.next_steps) if step[0] == "dynamics"]
