"""A run as a notebook that opens its data and best checkpoint, by hash, from whatever registry has them.

What comes from a record goes into code as literals alone, never as text of a comment or a name.
"""

from __future__ import annotations

import html
from typing import Any

from reprokit.client.frameworks import find
from reprokit.registry import Registry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import CheckpointFacts, facts_in
from reprokit.schema.lock import RunLock
from reprokit.schema.notebook import encode
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["as_notebook"]

_OTHERWISE = "`checkpoint.tensors()` are read-only NumPy arrays by name."


def as_notebook(run: StoredRun, *, registry: Registry) -> bytes:
    """Return a notebook (nbformat 4.5) that loads what `run` was made from and the best it made.

    The best is what the run's recipe calls so; without that, its last checkpoint. A run that has none, or no data, has
    no cells for it.
    """
    lock = RunStore(registry).find_lock(run)
    cells = [_text("run", _title(run.record))]
    cells += [_code("registry", f"import reprokit\n\nREGISTRY = {registry.url!r}  # or another that has the run")]
    cells += [_text("about-parameters", "## Parameters\n\nThose of the run, as `reprokit.params()` gave them to it.")]
    cells += [_code("parameters", f"params = {dict(run.record.params)!r}\nparams", tags=["parameters"])]
    cells += _data(lock)
    cells += _checkpoint(run.record, lock, registry)
    cells += [_text("again", _again(run.record))]
    return encode({"cells": cells, "metadata": _METADATA, "nbformat": 4, "nbformat_minor": 5})


_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def _title(record: Record) -> str:
    rows = [("run", record.run_id), ("name", record.name), ("status", record.status), ("started", record.started)]
    if record.code is not None:
        rows.append(("commit", (record.code.commit or "none") + (" with changes" if record.code.dirty else "")))
    if record.environment is not None:
        environment = record.environment
        rows.append(("environment", f"Python {environment.python}, {environment.packages} packages"))
    rows += [(name, f"{value:.6g}") for name, value in record.metrics.items()]
    table = "\n".join(f"| {_plain(name)} | {_plain(value)} |" for name, value in rows)
    return (
        f"# {_plain(record.name)}\n\nWritten by reprokit from the record of a run. Every byte that the cells read is "
        f"compared with its hash first.\n\n| | |\n|---|---|\n{table}"
    )


def _data(lock: RunLock | None) -> list[dict[str, Any]]:
    if lock is None or not lock.data:
        return []
    lines = []
    for pin in lock.data:
        within = f"[{pin.within!r}]" if pin.within is not None else ""
        lines.append(
            f"    {pin.name!r}: reprokit.Package.open({f'{pin.package}@{pin.top_hash}'!r}, registry=REGISTRY){within},"
        )
    about = (
        "## Data\n\nThe inputs, by name, in the versions that the run was locked to. `data[name][key]` is a file, with "
        "`.read()`, `.open()`, `.path()` and `.to_pandas()`; `reprokit install` writes a whole version into a folder."
    )
    return [_text("about-data", about), _code("data", "data = {\n" + "\n".join(lines) + "\n}\ndata")]


def _checkpoint(record: Record, lock: RunLock | None, registry: Registry) -> list[dict[str, Any]]:
    best = lock.recipe.checkpoints.best if lock is not None else {}
    usable = [entry for entry in record.checkpoints if not entry.dropped]
    if not usable:
        return []
    asked = "best" if best and any(set(best) & set(entry.metrics) for entry in usable) else "last"
    chosen = record.select(asked, best=best)
    facts = facts_in(registry.read_manifest(chosen.top_hash).user_meta, CheckpointFacts)
    framework = find(facts.framework) if facts is not None else None
    opening = framework.stored.opening if framework is not None else ""
    where = _where(chosen)
    about = f"## Checkpoint\n\nThe {asked} one: {_plain(where)}. {opening or _OTHERWISE}"
    source = (
        f"checkpoint = reprokit.load_checkpoint({f'{chosen.package}@{chosen.top_hash}'!r}, registry=REGISTRY)\n"
        f"assert checkpoint.facts.state_digest == {chosen.state_digest!r}\n"
        "checkpoint.state['epoch'], checkpoint.facts.metrics"
    )
    cells = [_text("about-checkpoint", about), _code("checkpoint", source)]
    if framework is None or framework.stored.has_tensors:
        cells.append(
            _code("tensors", "tensors = checkpoint.tensors()\n{name: array.shape for name, array in tensors.items()}")
        )
    return cells


def _where(entry: CheckpointEntry) -> str:
    return ", ".join([entry.place.exact, *(f"{name} {value:.6g}" for name, value in entry.metrics.items())])


def _again(record: Record) -> str:
    return (
        f"## Again\n\n`reprokit reproduce {_plain(record.run_id)}` rebuilds code, environment and data, repeats the "
        f"run, and says how close it came."
    )


def _plain(text: str) -> str:
    """Return untrusted text as Markdown that is only text."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#!$~" else letter for letter in escaped)


def _text(identity: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": source}


def _code(identity: str, source: str, *, tags: list[str] | None = None) -> dict[str, Any]:
    metadata = {"tags": tags} if tags else {}
    cell = {"cell_type": "code", "id": identity, "metadata": metadata, "source": source}
    return {**cell, "execution_count": None, "outputs": []}
