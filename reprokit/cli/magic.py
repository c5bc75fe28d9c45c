"""`%load_ext reprokit` in IPython and Jupyter: `%reprokit ls`, `%reprokit show latest` and every other command."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from reprokit.cli.main import cli
from reprokit.core.terminal_text import continued
from reprokit.errors import Error

__all__ = ["load_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Give an IPython shell the magic `%reprokit`; IPython calls this for `%load_ext reprokit`."""
    shell.register_magic_function(_command, "line", "reprokit")


def _command(line: str) -> None:
    """Run a command of reprokit's: `%reprokit ls`, `%reprokit run recipe.yaml -p epochs=3`."""
    try:
        cli.main(shlex.split(line), prog_name="%reprokit", standalone_mode=False)
    except (Error, click.ClickException, ValueError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        sys.stderr.write(f"error: {continued(message)}\n")
    except click.Abort:
        sys.stderr.write("error: Interrupted.\n")
