"""ls, show, lineage."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from reprokit.cli.face import Face, common, reference, size
from reprokit.cli.text.run_table import run_table
from reprokit.core.terminal_text import printable
from reprokit.errors import UsageError
from reprokit.runs.listing import Contents, Files, ShownRun, ShownVerdict
from reprokit.runs.listing import ls as contents
from reprokit.runs.store import RunStore

if TYPE_CHECKING:
    from reprokit.runs.support import Reproduction

__all__ = ["lineage", "ls", "show"]


@click.command()
@reference("ref", required=False)
@click.option("--where", metavar="EXPR", help='Only runs of which this is true: "metrics.accuracy > 0.9".')
@click.option("--sort", metavar="KEY", help="By metrics.NAME, params.NAME or a field; -KEY: the largest first.")
@click.option("-n", "--limit", metavar="N", type=int, help="So many runs: the newest, or of a sorted list the first.")
@click.option("--columns", metavar="KEYS", help="What is shown of runs: run,started,metrics.loss,params.lr,params")
@common
def ls(
    face: Face, ref: str | None, where: str | None, sort: str | None, limit: int | None, columns: str | None
) -> None:
    """List runs and packages; or the checkpoints of a run, or the files of a package version.

    EXPR compares metrics.NAME, params.NAME, run, name, status, started, ended, lock_hash, checkpoints, reproduces,
    verdict (of this run, as a repetition of another), reproductions and reproduced (others repeated it: one to a
    tolerance at least) with constants, by == != < <= > >= in, joined by and, or, not: --where "not reproduced and
    params.rate in (0.1, 0.2)". A name with other characters is written metrics['val/loss'].

    Verdicts that the records of both runs do not bear out do not count; of a repetition they are UNSUPPORTED.

    A run that lacks what a comparison names is not listed, nor is it under `not`; `metrics.loss is None` finds it, and
    `not metrics.loss` finds it beside those where it is 0.
    """
    registry = face.registry()
    face.recover()
    found = contents(ref, where, sort=sort, limit=limit, registry=registry)
    if columns is not None and not isinstance(found, Contents):
        raise UsageError("--columns are of a list of runs; what is in one is listed whole.")
    if isinstance(found, Contents):
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        runs = run_table(found.runs, RunStore(registry), columns=columns, width=width) if found.runs else []
        packages = [("PACKAGE", "bold"), *((name, None) for name in found.packages)] if found.packages else []
        nothing = [(f"nothing in {registry.url}" if where is None else "no such run", None)]
        face.table(found.plain, [*runs, *packages] or nothing)
        return
    if isinstance(found, Files):
        lines = [f"{size(e.size):>9}  {e.logical_key}" for e in found.package.manifest.entries]
    else:
        from reprokit.cli.text.record import checkpoint_line  # with all of a record's parts, which a listing has not

        among = [entry for entry, _ in found.saved]
        sized = [*([found.initial] if found.initial is not None else []), *found.saved]
        lines = [checkpoint_line(entry, among=among, total=total) for entry, total in sized] or ["no checkpoints"]
        lines += [printable(str(attempt), 400) for attempt in found.attempts]
    face.result(found.plain, lines)


@click.command()
@reference("ref")
@common
def show(face: Face, ref: str) -> None:
    """Show a run, one of its checkpoints (RUN@epoch=2), a package version, or a verdict (verdicts/RUN)."""
    from reprokit.cli.text.package import package_text
    from reprokit.cli.text.record import kept_verdict_text, note_line, run_text
    from reprokit.runs.listing import show as shown

    registry = face.registry()
    face.recover()
    found = shown(ref, registry=registry)
    if isinstance(found, ShownRun):
        lines = [run_text(found.record), *map(_reproduction, found.reproductions)]
        lines += [printable(f"  {'UNSUPPORTED':<12} {found.unsupported}", 2000)] if found.unsupported else []
        lines += [printable(f"  {'AMENDED':<12} {one}", 2000) for one in found.amendments]
        lines += [note_line(one) for one in found.notes]
        lines += [printable(f"  {'tags':<12} {', '.join(found.tags)}", 2000)] if found.tags else []
        face.result(found.plain(), "\n".join(lines))
    elif isinstance(found, ShownVerdict):
        why = [] if found.unsupported is None else [printable(f"  {'UNSUPPORTED':<12} {found.unsupported}", 2000)]
        face.result(found.plain(), lambda: "\n".join([kept_verdict_text(found.kept), *why]))
    else:
        manifest = found.manifest
        plain = {
            "name": found.name,
            "top_hash": found.top_hash,
            "message": manifest.message,
            "meta": dict(manifest.user_meta),
            "entries": len(manifest.entries),
            "size": manifest.size,
        }
        head = registry.head(found.name)
        tags = [] if head is None else sorted(tag for tag, pointed in head.tags.items() if pointed == found.top_hash)
        face.result(plain, lambda: package_text(found, tags))


@click.command()
@reference("ref")
@click.option("--forward", is_flag=True, help="What was made from it, instead of what it was made from.")
@common
def lineage(face: Face, ref: str, forward: bool) -> None:
    """Show the chain of runs that REF (a run, RUN@best, a package version) was made by, down to the first inputs."""
    from reprokit.cli.text.lineage import lineage_text  # reads records, which a list of runs does without
    from reprokit.runs.lineage import lineage as trace

    face.recover()
    found = trace(ref, registry=face.registry(), forward=forward)
    face.result(found.plain(), lambda: lineage_text(found))


def _reproduction(found: Reproduction) -> str:
    """Return a verdict on a run in a line."""
    changed = f"  with {', '.join(found.relaxed)}" if found.relaxed else ""
    name = "repeated" if changed else "reproduced"
    told = "  ".join((found.reproduction, found.verdict, found.by, found.at))
    if found.unsupported is not None:
        name, changed = "UNSUPPORTED", f"{changed}: {found.unsupported}"
    lines = [f"  {name:<12} {told}{changed}", *(f"  {'proviso':<12} {text}" for text in found.provisos)]
    return "\n".join(printable(line, 2000) for line in lines)
