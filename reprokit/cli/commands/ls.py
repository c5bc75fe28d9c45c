"""ls, show, logs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import msgspec

from reprokit.cli.face import Face, common, size
from reprokit.cli.text.record import checkpoint_line, kept_verdict_text, metrics_text, run_text
from reprokit.core.refs import RunRef, is_package_ref, parse_run
from reprokit.core.safe_json import printable
from reprokit.errors import NotFoundError, UsageError
from reprokit.packages.package import RESERVED, VERDICTS, Package
from reprokit.registry import Registry
from reprokit.runs.overview import overview
from reprokit.runs.store import RunStore
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.record import Record

__all__ = ["logs", "ls", "show"]


@click.command()
@click.argument("ref", required=False)
@click.option("--where", metavar="EXPR", help='Only runs of which this is true: "metrics.accuracy > 0.9".')
@common
def ls(face: Face, ref: str | None, where: str | None) -> None:
    """List runs and packages; or the checkpoints of a run, or the files of a package version.

    EXPR compares metrics.NAME, params.NAME, run, name, status, started, ended, lock_hash, checkpoints, reproduces,
    verdict (of this run, as a repetition of another), reproductions and reproduced (others repeated it: one to a
    tolerance at least) with constants, by == != < <= > >= in, joined by and, or, not: --where "not reproduced and
    params.rate in (0.1, 0.2)". A name with other characters is written metrics['val/loss'].

    A run that lacks what a comparison names is not listed, nor is it under `not`; `metrics.loss is None` finds it, and
    `not metrics.loss` finds it beside those where it is 0.
    """
    if ref is not None and where is not None:
        raise UsageError("--where chooses among runs; what is in one is listed whole.")
    registry = face.registry()
    face.recover()
    if ref is None:
        runs, packages = _runs(registry, where), []
        if where is None:
            packages = [
                name
                for name in registry.packages()
                if name.partition("/")[0] not in (RESERVED, VERDICTS) and _has_versions(registry, name)
            ]
        lines = [_run_line(run) for run in runs]
        face.result(
            {"runs": runs, "packages": packages},
            "\n".join([*lines, *packages]) or (f"nothing in {registry.url}" if where is None else "no such run"),
        )
    elif is_package_ref(ref):
        package = Package.open(ref, registry=registry)
        rows = [
            {"logical_key": e.logical_key, "size": e.size, "hash": e.digest.value} for e in package.manifest.entries
        ]
        face.result(rows, "\n".join(f"{size(e.size):>9}  {e.logical_key}" for e in package.manifest.entries))
    else:
        _list_checkpoints(face, registry, RunStore(registry).load(parse_run(ref).run).record)


def _runs(registry: Registry, where: str | None) -> list[dict[str, Any]]:
    runs = RunStore(registry)
    if where is None:
        return overview(runs)
    chosen: list[dict[str, Any]] = importlib.import_module("reprokit.runs.query").choose(
        where, runs
    )  # not for a plain `ls`
    return chosen


def _list_checkpoints(face: Face, registry: Registry, record: Record) -> None:
    entries = ([record.initial] if record.initial else []) + record.checkpoints
    totals = [None if entry.dropped else _total(registry, entry.top_hash) for entry in entries]
    rows = [{**msgspec.to_builtins(entry), "size": total} for entry, total in zip(entries, totals, strict=True)]
    lines = [
        checkpoint_line(
            entry, "initial" if entry is record.initial else "checkpoint", among=record.checkpoints, total=total
        )
        for entry, total in zip(entries, totals, strict=True)
    ]
    first = rows[0] if record.initial else None
    face.result(
        {"initial": first, "checkpoints": rows[1:] if record.initial else rows}, "\n".join(lines) or "no checkpoints"
    )


def _total(registry: Registry, top_hash: str) -> int | None:
    """Return the bytes of a version's files; None if it is not there any more."""
    try:
        return sum(entry.size for entry in registry.read_manifest(top_hash).entries)
    except NotFoundError:
        return None


@click.command()
@click.argument("ref")
@common
def show(face: Face, ref: str) -> None:
    """Show a run, one of its checkpoints (RUN@epoch=2), a package version, or a verdict (verdicts/RUN)."""
    registry = face.registry()
    face.recover()
    runs = RunStore(registry)
    if not is_package_ref(ref):
        parsed: RunRef = parse_run(ref)
        if parsed.selector is None:
            run = runs.load(parsed.run)
            verdicts = VerdictStore(registry).summaries(run.record.run_id)
            lines = [run_text(run.record), *map(_reproduction, verdicts)]
            told = {"reproductions": verdicts} if verdicts else {}
            face.result({**run.record.plain(), **told}, "\n".join(lines))
            return
        chosen = runs.checkpoint(parsed)
        ref = f"{chosen.package}@{chosen.top_hash}"
    package = Package.open(ref, registry=registry)
    if package.name.partition("/")[0] == VERDICTS:
        found = VerdictStore(registry).read(package)
        face.result(found.plain(), lambda: kept_verdict_text(found))
        return
    manifest = package.manifest
    plain = {
        "name": package.name,
        "top_hash": package.top_hash,
        "message": manifest.message,
        "meta": dict(manifest.user_meta),
        "entries": len(manifest.entries),
        "size": manifest.size,
    }
    shown = {**plain, "size": size(manifest.size)}
    lines = [f"  {key:<10} {value}" for key, value in shown.items() if value not in (None, {})]
    face.result(plain, "\n".join(lines))


def _reproduction(summary: dict[str, Any]) -> str:
    """Return a verdict on a run in a line; its header is anybody's, and not verified."""
    relaxed = summary.get("relaxed")
    changed = f"  with {', '.join(map(str, relaxed))}" if isinstance(relaxed, list) and relaxed else ""
    name = "repeated" if changed else "reproduced"
    told = "  ".join(str(summary.get(key)) for key in ("reproduction", "verdict", "by", "at"))
    return f"  {name:<12} {told}{changed}"


@click.command()
@click.argument("run")
@common
def logs(face: Face, run: str) -> None:
    """Print what RUN's script wrote, each line with its time."""
    registry = face.registry()
    face.recover()
    stored = RunStore(registry).load(run)
    if "log.txt" not in stored.manifest:
        journal = face.config.home / "runs" / stored.record.run_id / "log.txt"
        if not journal.exists():
            raise NotFoundError(f"Run {stored.record.run_id} has no log yet: it is {stored.record.status} elsewhere.")
        text = journal.read_bytes()
    else:
        entry = stored.manifest["log.txt"]
        text = registry.read_object(entry, what=f"log.txt of run {stored.record.run_id}")
    if face.as_json:
        face.result({"run_id": stored.record.run_id, "log": text.decode(errors="replace")}, "")
    else:
        sys.stdout.buffer.write(text)


def _has_versions(registry: Registry, name: str) -> bool:
    head = registry.head(name)
    return head is not None and (bool(head.tags) or head.action != "delete")


def _run_line(run: dict[str, Any]) -> str:
    """Return a run in a line. Its summary is from a header, which is anybody's."""
    status, name, verdict = (printable(str(run.get(key) or "")) for key in ("status", "name", "verdict"))
    metrics = found if isinstance(found := run.get("metrics"), dict) else {}
    first = [(printable(key), value) for key, value in metrics.items() if isinstance(value, int | float)][:3]
    return (
        f"{run['run']}  {status:<11}  {name:<20}  {printable(str(run.get('checkpoints'))):>3} ckpt  {verdict:<16}  "
        f"{'reproduced' if run['reproduced'] else '':<10}  {metrics_text(dict(first))}"
    ).rstrip()
