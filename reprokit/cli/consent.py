"""Whose code it is: said and asked before a command executes what somebody else recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from reprokit.cli.face import Face
from reprokit.core.refs import RESERVED
from reprokit.core.terminal_text import one_line
from reprokit.errors import RefusedError
from reprokit.registry.package_log import writer
from reprokit.runs.store import RunStore, StoredRun

__all__ = ["ask_before", "confirmed"]

confirmed = click.option("-y", "--yes", is_flag=True, help="Execute a colleague's code without asking.")


def ask_before(face: Face, runs: Iterable[str], *, yes: bool, what: str = "its code") -> None:
    """Say whose code is about to be executed, where that is somebody else's, and ask on a terminal.

    Who wrote a run is what its record and the registry's log say: whoever may write to the registry may claim any name.

    Args:
        runs: Whose code it is.
        yes: It was answered beforehand.
        what: Of each run is executed.
    Raises:
        RefusedError: Nobody is there to answer.
    """
    store = RunStore(face.registry())
    for text in dict.fromkeys(runs):
        run = store.load(text)
        strangers = _strangers(store, run)
        if not strangers:
            continue
        whose = f"Run {run.record.run_id} was written by {' and by '.join(strangers)}"
        if yes:
            face.note(f"{whose}; {what} is executed now.")
            continue
        if not sys.stdin.isatty():
            raise RefusedError(
                f"{whose}, and you are {writer()}: nobody is here to be asked whether to execute {what}.",
                hint="-y executes it; with --hermetic, where there is that, it has no network, no home and no other "
                "files. Nothing was executed.",
            )
        where = f"the registry {store.registry.url}"
        click.confirm(f"{whose}; this executes {what}, from {where}, as {writer()}. Go on?", abort=True, err=True)


def _strangers(store: RunStore, run: StoredRun) -> list[str]:
    """Return who wrote a run, as far as that is not who asks: its record's author, and who published it here last."""
    head = store.registry.head(f"{RESERVED}/{run.record.run_id}")
    found = [run.record.by or "somebody unnamed", head.writer if head is not None else ""]
    return [one_line(who, 120) for who in dict.fromkeys(found) if who and who != writer()]
