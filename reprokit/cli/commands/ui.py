"""ui."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import webbrowser
from pathlib import Path
from typing import Any

import click

from reprokit.cli.face import Face, common
from reprokit.core.own_extras import pip_words
from reprokit.errors import UsageError

__all__ = ["ui"]

_NEEDED = ("starlette", "uvicorn", "jinja2", "matplotlib")


@click.command()
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), help="By default 8265, or one after it.")
@click.argument("refs", nargs=-1, metavar="[RUN]…")
@click.option(
    "--export", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Write pages on RUNs into DIR."
)
@click.option("--open/--no-open", "opens", default=False, help="Open it in the browser too.")
@common
def ui(face: Face, refs: tuple[str, ...], port: int | None, folder: Path | None, opens: bool) -> None:
    """Show the registry in a browser on this machine: runs, curves, comparisons, packages, lineage.

    The page reads alone, needs no network, and answers to this machine only. Ctrl-C ends it.

    With --export, pages on RUNs are written that open from a file, without a server: index.html lists them.
    """
    if bool(refs) != (folder is not None):
        raise UsageError("RUNs are named with --export DIR, and it with RUNs: `reprokit ui RUN RUN --export DIR`.")
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"The page needs {', '.join(lacking)}.", hint=f"`pip install {pip_words('ui')}`")
    face.recover()
    context = face.context()

    if folder is not None:
        write: Any = importlib.import_module("reprokit.web.static_pages").export_pages
        made = write(refs, folder, context=context, progress=face)
        face.result({"runs": made, "folder": str(folder)}, f"{folder / 'index.html'} shows {len(made)} run(s)")
        return

    def ready(address: str) -> None:
        face.result({"url": address}, f"{address}  shows {context.registry.url} until Ctrl-C")
        sys.stdout.flush()
        if opens:
            webbrowser.open(address)

    importlib.import_module("reprokit.web.serve").serve(context, port=port, ready=ready)
