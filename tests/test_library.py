"""Every verb has a function, and docs/library.md says where."""

from __future__ import annotations

import functools
import importlib
import re

from reprokit.cli.main import _COMMANDS
from tests.conftest import ROOT

ROWS = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|$", (ROOT / "docs" / "library.md").read_text(), re.MULTILINE)


def test_every_verb_of_the_command_line_has_a_row() -> None:
    told = {verb for verbs, _ in ROWS for verb in re.findall(r"`(\w+)`", verbs)}
    assert told == set(_COMMANDS) - {"help", "completion", "version"}  # of the command line alone


def test_what_the_rows_name_is_there() -> None:
    named = [name for _, functions in ROWS for name in re.findall(r"`(reprokit[\w.]*)`", functions)]
    assert len(named) > 20
    for name in named:
        module = name
        while True:
            try:
                found = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module = module.rpartition(".")[0]
        rest = [part for part in name.removeprefix(module).split(".") if part]
        assert functools.reduce(getattr, rest, found) is not None
