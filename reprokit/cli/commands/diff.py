"""diff."""

from __future__ import annotations

import importlib

import click

from reprokit.cli.consent import ask_before
from reprokit.cli.face import Face, common, reference
from reprokit.cli.text.causes import explanation_text
from reprokit.cli.text.package_diff import package_diff_text
from reprokit.cli.text.run_diff import checkpoint_diff_text, run_diff_text
from reprokit.cli.text.two_runs import both_text
from reprokit.comparison.diff import diff as compare
from reprokit.comparison.package_diff import PackageDiff
from reprokit.comparison.run_diff import RunDiff
from reprokit.errors import UsageError
from reprokit.runs.store import RunStore

__all__ = ["diff"]


@click.command()
@reference("left")
@reference("right")
@click.argument("keys", nargs=-1)
@click.option(
    "--content", is_flag=True, help="Show what changed inside: in the code of runs, in the files of versions."
)
@click.option("--tensors", is_flag=True, help="Read the tensors that differ, and say by how much.")
@click.option("--explain", is_flag=True, help="Of runs: of each cause why, what it consists of, and how to try it.")
@click.option("--bisect", "bisects", is_flag=True, help="Of runs: repeat LEFT with one cause of RIGHT at a time.")
@click.option("-y", "--yes", is_flag=True, help="With --bisect: execute a colleague's code without asking.")
@common
def diff(
    face: Face, left: str, right: str, keys: tuple[str, ...], content: bool, tensors: bool, explain: bool,
    bisects: bool, yes: bool,
) -> None:  # fmt: skip
    """Compare two runs, two checkpoints, or two package versions; without --bisect, without running anything.

    Runs: code, environment, data, params, metrics, outputs, which checkpoint differs first and in which tensors, and
    the verdict. Checkpoints (RUN@epoch=2, RUN@last, NS/NAME@HASH): tensor by tensor. Both from metadata alone; with
    --tensors the values are read, for max |Δ|, relative error and ULP distance, the worst first.

    Of two package versions, KEYS shows what changed inside these files or folders: lines of a text, cells of a table.
    """
    registry = face.registry()
    found = compare(left, right, keys, registry=registry, content=content, tensors=tensors)
    if not isinstance(found, RunDiff):
        if explain or bisects:
            raise UsageError("--explain and --bisect are about two runs.")
        text = package_diff_text(found) if isinstance(found, PackageDiff) else checkpoint_diff_text(found)
        face.result(found.plain(), text)
        return
    runs = RunStore(registry)
    ids = found.verdict.reproduces, found.verdict.run_id
    plain, parts = found.plain(), [explanation_text(found.verdict) if explain else ""]
    parts.append(both_text(*(runs.load(one).record for one in ids)))
    if bisects:
        ask_before(face, ids, yes=yes)
        bench = importlib.import_module("reprokit.cli.bisection")  # with all that it takes to execute a run
        bisection = bench.bisected(face, *ids)
        plain["bisection"] = bisection.plain()
        parts.append(bench.bisection_text(bisection))
    face.result(plain, lambda: "\n".join([*filter(None, parts), run_diff_text(found)]))
