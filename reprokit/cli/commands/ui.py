"""ui."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import webbrowser

import click

from reprokit.cli.face import Face, common
from reprokit.core.own_extras import pip_words
from reprokit.errors import UsageError

__all__ = ["ui"]

_NEEDED = ("starlette", "uvicorn", "jinja2", "matplotlib")


@click.command()
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), help="By default 8265, or one after it.")
@click.option("--open/--no-open", "opens", default=False, help="Open it in the browser too.")
@common
def ui(face: Face, port: int | None, opens: bool) -> None:
    """Show the registry in a browser on this machine: runs, curves, comparisons, packages, lineage.

    The page reads alone, needs no network, and answers to this machine only. Ctrl-C ends it.
    """
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"The page needs {', '.join(lacking)}.", hint=f"`pip install {pip_words('ui')}`")
    face.recover()
    context = face.context()

    def ready(address: str) -> None:
        face.result({"url": address}, f"{address}  shows {context.registry.url} until Ctrl-C")
        sys.stdout.flush()
        if opens:
            webbrowser.open(address)

    importlib.import_module("reprokit.web.serve").serve(context, port=port, ready=ready)
