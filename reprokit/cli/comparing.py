"""diff."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from reprokit.cli.face import Face, common, size
from reprokit.cli.text import verdict_text
from reprokit.concluding import compare_runs
from reprokit.content import compare_content
from reprokit.errors import NotFoundError, UsageError
from reprokit.package import Package
from reprokit.refs import is_package_ref
from reprokit.runs import RunStore

__all__ = ["diff"]


@click.command()
@click.argument("left")
@click.argument("right")
@click.argument("keys", nargs=-1)
@click.option("--content", is_flag=True, help="Of package versions: show what changed inside every changed file.")
@common
def diff(face: Face, left: str, right: str, keys: tuple[str, ...], content: bool) -> None:
    """Compare two runs (verdict, first divergence, causes) or two package versions, without running anything.

    Of two package versions, KEYS shows what changed inside these files or folders: lines of a text, cells of a table.
    """
    registry = face.registry()
    if is_package_ref(left) and is_package_ref(right):
        _diff_packages(
            face, Package.open(left, registry=registry), Package.open(right, registry=registry), keys, content
        )
        return
    if keys or content:
        raise UsageError("Files are compared between package versions, not between runs.")
    runs = RunStore(registry)
    verdict = compare_runs(runs.load(left), runs.load(right), registry=registry)
    face.result(verdict.plain(), lambda: verdict_text(verdict, title="diff"))


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
