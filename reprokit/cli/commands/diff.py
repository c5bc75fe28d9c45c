"""diff."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from typing import Any

import click

from reprokit.checkpoint.reader import Checkpoint
from reprokit.cli.face import Face, common, size
from reprokit.cli.text.causes import explanation_text
from reprokit.cli.text.run_diff import checkpoint_diff_text, run_diff_text
from reprokit.cli.text.two_runs import both_text
from reprokit.comparison.compare_runs import open_checkpoint
from reprokit.comparison.files.text_diff import compare_content
from reprokit.comparison.run_diff import diff_checkpoints, diff_runs
from reprokit.core.refs import is_package_ref, parse_run
from reprokit.errors import NotFoundError, UsageError
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.runs.store import RunStore, StoredRun

__all__ = ["diff"]

_CHECKPOINTS = ("checkpoint", "initial", "signal", "exception")


@click.command()
@click.argument("left")
@click.argument("right")
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
    one, other = _opened(left, registry), _opened(right, registry)
    if isinstance(one, StoredRun) and isinstance(other, StoredRun):
        if keys:
            raise UsageError(
                "Files are compared between versions, not between runs; --content shows those of the code."
            )
        runs = diff_runs(one, other, registry=registry, values=tensors, content=content)
        plain, parts = (
            runs.plain(),
            [explanation_text(runs.verdict) if explain else "", both_text(one.record, other.record)],
        )
        if bisects:
            bench = importlib.import_module("reprokit.cli.bisection")  # with all that it takes to execute a run
            if not yes:
                bench.confirm(face, left)
            found = bench.bisected(face, one.record.run_id, other.record.run_id)
            plain["bisection"] = found.plain()
            parts.append(bench.bisection_text(found))
        face.result(plain, lambda: "\n".join([*filter(None, parts), run_diff_text(runs)]))
    elif explain or bisects:
        raise UsageError("--explain and --bisect are about two runs.")
    elif isinstance(one, StoredRun) or isinstance(other, StoredRun):
        kinds = ["a run" if isinstance(side, StoredRun) else "a checkpoint or package" for side in (one, other)]
        raise UsageError(
            f"{left} is {kinds[0]}, {right} is {kinds[1]}: only like is compared with like.",
            hint="Name two runs, or a checkpoint of each: RUN@last, RUN@epoch=2.",
        )
    elif keys or content or not (_is_checkpoint(one) or _is_checkpoint(other)):
        if tensors:
            raise UsageError("--tensors compares checkpoints, not the files of versions.")
        _diff_packages(face, one, other, keys, content)
    else:
        for text, side in ((left, one), (right, other)):
            if not _is_checkpoint(side):
                raise UsageError(
                    f"{text} is no checkpoint, but what it is compared with is one.",
                    hint="With --content, or with KEYS, the files of any two versions are compared.",
                )
        compared = diff_checkpoints(Checkpoint(one), Checkpoint(other), values=tensors)
        face.result(compared.plain(), lambda: checkpoint_diff_text(compared))


def _opened(text: str, registry: Registry) -> StoredRun | Package:
    """Return the run that `text` names; or the version, of a package or of a run's checkpoint."""
    if is_package_ref(text):
        return Package.open(text, registry=registry)
    runs, ref = RunStore(registry), parse_run(text)
    if ref.selector is None:
        return runs.load(ref.run)
    return open_checkpoint(runs.checkpoint(ref), registry).package


def _is_checkpoint(package: Package) -> bool:
    facts = package.manifest.user_meta.get("reprokit")
    return isinstance(facts, dict) and facts.get("kind") in _CHECKPOINTS


def _diff_packages(face: Face, one: Package, other: Package, keys: tuple[str, ...], content: bool) -> None:
    found = one.manifest.diff(other.manifest)
    wanted = [key.rstrip("/") for key in keys]
    unknown = [
        key for key in wanted if not any(_within(name, key) for name in {*one.manifest.keys, *other.manifest.keys})
    ]
    if unknown:
        raise NotFoundError(f"Neither {one} nor {other} has {unknown[0]!r}.")

    def shown(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if not wanted or any(_within(name, key) for key in wanted)]

    added, removed, changed = shown(found.added), shown(found.removed), shown(found.changed)
    plain: dict[str, Any] = {
        "left": one.top_hash, "right": other.top_hash, "added": added, "removed": removed, "changed": changed,
        "message": [one.manifest.message, other.manifest.message],
        "meta_changed": one.manifest.user_meta != other.manifest.user_meta,
    }  # fmt: skip
    lines = [f"{one} → {other}"]
    lines += [f"  + {key}  {size(other.manifest[key].size)}" for key in added]
    lines += [f"  - {key}  {size(one.manifest[key].size)}" for key in removed]
    contents: dict[str, Any] = {}
    for key in changed:
        before, after = one.manifest[key], other.manifest[key]
        lines.append(f"  ~ {key}  {size(before.size)} → {size(after.size)}")
        if before.meta != after.meta:
            lines.append(f"      metadata  {json.dumps(dict(before.meta))} → {json.dumps(dict(after.meta))}")
        if (content or wanted) and before.digest != after.digest:
            inside = compare_content(key, one.entry(key).read(), other.entry(key).read())
            contents[key] = asdict(inside)
            lines += [f"      {line}" for line in inside.lines]
    if plain["meta_changed"]:
        lines.append("  ~ metadata of the version")
    if content or wanted:
        plain["content"] = contents
    face.result(plain, "\n".join(lines if len(lines) > 1 else [*lines, "  equal"]))


def _within(name: str, key: str) -> bool:
    return name == key or name.startswith(key + "/")
