"""Reproduce a run from its ID: fetch the lock, realise it, execute it, compare. And compare two runs as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from reprokit.causes import causes_between
from reprokit.checkpoint.reader import Checkpoint
from reprokit.code import CODE_PREFIX, Repository, code_entries
from reprokit.compare import Side, compare
from reprokit.config import Config
from reprokit.data import output_name, part_of, pin_input
from reprokit.environment.capture import capture_environment
from reprokit.environment.vault import kept_entries, open_vault
from reprokit.errors import NotFoundError, RefusedError, UsageError
from reprokit.executing import execute
from reprokit.lock import DataPin, RunLock
from reprokit.locking import ready_for
from reprokit.manifest import Manifest, ManifestDiff
from reprokit.notebook import Notebook, changed_cells
from reprokit.package import Package
from reprokit.plain_yaml import load_yaml
from reprokit.prepared import Orders, Prepared
from reprokit.process import Echo
from reprokit.progress import SILENT, Progress
from reprokit.recipe import DataInput, Tolerance, from_plain, to_plain
from reprokit.record import CheckpointEntry, CodeFacts, Record
from reprokit.recording import recover
from reprokit.refs import PackageRef, is_package_ref, parse_run
from reprokit.registry import Registry, open_registry
from reprokit.runs import LOCK_KEY, RunStore, StoredRun
from reprokit.saving import Observer
from reprokit.verdict import Verdict

__all__ = ["Overrides", "compare_runs", "reproduce", "side_of"]

_EXECUTION = {"threads", "seed", "determinism", "inputs", "layout"}


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What `--with` and its like change about a lock; `relaxed` names each in the words it was given."""

    code: Path | None = None
    environment: bool = False
    data: tuple[tuple[str, str], ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    execution: tuple[tuple[str, Any], ...] = ()
    until: int | None = None
    tolerance: Tolerance | None = None
    relaxed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, items: tuple[str, ...], *, until: str | None = None, tolerance: Path | None = None) -> Overrides:
        """Parse `code=.`, `data.NAME=REF`, `param.NAME=V`, `threads=4`, `seed=1`, `env=current`; `epoch=2` for until.

        Raises:
            UsageError: None of these.
        """
        result = cls(relaxed=tuple(items))
        for item in items:
            key, equals, text = item.partition("=")
            if not equals or not text:
                raise UsageError(f"--with {item}: write NAME=VALUE.", hint=_WITH_HELP)
            kind, _, name = key.partition(".")
            if key == "code":
                result = replace(result, code=Path(text))
            elif key == "env" and text == "current":
                result = replace(result, environment=True)
            elif kind == "data" and name:
                result = replace(result, data=(*result.data, (name, text)))
            elif kind == "param" and name:
                value = load_yaml(text.encode(), what=f"--with {item}")
                result = replace(result, params=(*result.params, (name, value)))
            elif key in _EXECUTION:
                value = load_yaml(text.encode(), what=f"--with {item}")
                result = replace(result, execution=(*result.execution, (key, value)))
            else:
                raise UsageError(f"--with {item}: {key!r} cannot be overridden.", hint=_WITH_HELP)
        if until is not None:
            name, _, number = until.partition("=")
            if name != "epoch" or not number.isdigit():
                raise UsageError(f"--until {until}: write epoch=N, counted from 0.")
            result = replace(result, until=int(number), relaxed=(*result.relaxed, f"until {until}"))
        if tolerance is not None:
            value = load_yaml(tolerance.read_bytes(), what=str(tolerance))
            probe = from_plain({"name": "t", "code": {"entrypoint": "t"}, "tolerance": value}, what=str(tolerance))
            result = replace(
                result, tolerance=probe.tolerance, relaxed=(*result.relaxed, f"tolerance {tolerance.name}")
            )
        return result


_WITH_HELP = (
    "Known: code=DIR, data.NAME=REF, param.NAME=VALUE, threads=N, seed=N, determinism=…, inputs=…, layout=…, "
    "env=current."
)


def reproduce(
    ref: str,
    *,
    registry: str | None = None,
    overrides: Overrides | None = None,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
) -> Verdict:
    """Repeat a run from nothing but the registry, and return the verdict.

    Args:
        ref: The run: its ID, a unique part of it, `latest`.
        overrides: What to change; every one is listed in the verdict and forbids BITWISE.
    Raises:
        NotFoundError: No such run.
        EnvironmentMismatchError: This environment is not the locked one, and that one cannot be made; both are named.
        DataMismatchError: Something in the registry is corrupt.
    """
    chosen = overrides or Overrides()
    config = Config.load(registry=registry)
    store = open_registry(config.registry)
    recover(config.home)
    runs = RunStore(store)
    original = runs.load(ref)
    if original.record.status == "running":
        raise RefusedError(f"Run {original.record.run_id} is still running.", hint="Wait for its end.")
    lock = runs.lock(original) if LOCK_KEY in original.manifest else None
    if lock is None:
        raise RefusedError(
            f"Run {original.record.run_id} has no lock: it was not started from a recipe, so it cannot be repeated.",
            hint="Declare it in a recipe: `reprokit init SCRIPT`.",
        )
    locked, ready = lock, None
    if chosen.environment:
        locked = msgspec.structs.replace(lock, environment=capture_environment(config.cache))
    else:
        ready = ready_for(
            lock.environment, cache=config.cache, what=f"run {original.record.run_id}",
            vault=open_vault(original.manifest, store), image=lock.recipe.image, progress=progress,
        )  # fmt: skip
    prepared = _prepare(original, locked, chosen, registry=store)
    if ready is not None:
        prepared = replace(prepared, python=ready.python, container=ready.container)
    relaxed = list(chosen.relaxed)

    def conclude(record: Record, manifest: Manifest) -> Record:
        right = StoredRun(record, manifest)
        tolerance = chosen.tolerance or lock.recipe.tolerance
        verdict = _verdict(
            original, right, lock, prepared.lock, store, tolerance=tolerance, relaxed=relaxed, until=chosen.until
        )
        return msgspec.structs.replace(record, verdicts=[verdict])

    orders = Orders(
        reproduces=original.record.run_id, relaxed=relaxed, until=chosen.until, at=_saved_by_clock(original, lock)
    )
    recording = execute(
        prepared,
        orders,
        config=config,
        registry=store,
        progress=progress,
        observer=observer,
        echo=echo,
        conclude=conclude,
    )
    return recording.record.verdicts[-1]


def _saved_by_clock(original: StoredRun, lock: RunLock) -> list[tuple[int, int]] | None:
    """Return after which batches the original saved because minutes had passed: a repetition saves there too."""
    if lock.recipe.every[1] != "minute":
        return None
    saved = [c for c in original.record.checkpoints if c.reason is None]
    return [(c.epoch, c.batch) for c in saved if c.epoch is not None and c.batch is not None]


def _prepare(original: StoredRun, lock: RunLock, chosen: Overrides, *, registry: Registry) -> Prepared:
    """Apply overrides to a lock; without any, the lock stays what it was, hash and all."""
    entries = [*original.manifest.below("code")]
    code = msgspec.structs.replace(original.record.code or CodeFacts(tree=lock.code.tree), imported=[])
    if chosen.code is not None:
        repository = Repository(chosen.code)
        with (
            repository.capture(allow_dirty=True, notebook=lock.recipe.code.notebook) as capture,
            registry.staging() as sink,
        ):
            entries, _ = code_entries(repository, capture, sink)
            code = capture.facts
            identity = msgspec.structs.replace(capture.identity, python_path=lock.code.python_path)
        lock = msgspec.structs.replace(lock, code=identity)
    plain = to_plain(lock.recipe)
    if chosen.params:
        unknown = [name for name, _ in chosen.params if name not in lock.params]
        if unknown:
            raise UsageError(
                f"--with param.{unknown[0]}: the run has no such parameter.",
                hint=f"Known: {', '.join(lock.params) or 'none'}.",
            )
        plain["params"] = {**lock.params, **dict(chosen.params)}
        lock = msgspec.structs.replace(lock, params=plain["params"])
    if chosen.execution:
        plain["execution"] = {**msgspec.to_builtins(lock.execution), **dict(chosen.execution)}
    recipe = from_plain(plain, what="The lock with --with")
    if chosen.execution:
        lock = msgspec.structs.replace(lock, execution=recipe.execution)
    lock = msgspec.structs.replace(lock, recipe=recipe, data=_repin(lock.data, chosen.data, registry))
    entries += kept_entries(original.manifest) if not chosen.environment else []
    if "recipe.yaml" in original.manifest:
        entries.append(original.manifest["recipe.yaml"])
    return Prepared(lock=lock, entries=entries, code=code, name=original.record.name)


def _repin(pins: list[DataPin], changes: tuple[tuple[str, str], ...], registry: Registry) -> list[DataPin]:
    known = {pin.name: pin for pin in pins}
    for name, text in changes:
        if name not in known:
            raise UsageError(
                f"--with data.{name}: the run has no such input.", hint=f"It has: {', '.join(known) or 'none'}."
            )
        known[name] = pin_input(name, _input_like(known[name], text), registry=registry, runs=RunStore(registry))
    return list(known.values())


def _input_like(pin: DataPin, text: str) -> DataInput:
    """Return the input that a reference names: of a run without a checkpoint, the output that `pin` has of another."""
    if is_package_ref(text):
        return DataInput(path=pin.path, package=text)
    within = pin.within if pin.within is not None and parse_run(text).selector is None else None
    return DataInput(path=pin.path, run=text, output=within and output_name(within))


def compare_runs(left: StoredRun, right: StoredRun, *, registry: Registry) -> Verdict:
    """Compare two runs as they are, without running anything; the left one's tolerance counts.

    Where their locks differ, each difference counts as relaxed: equal bits of two experiments are not a reproduction.
    """
    runs = RunStore(registry)
    ours = runs.lock(left) if LOCK_KEY in left.manifest else None
    theirs = runs.lock(right) if LOCK_KEY in right.manifest else None
    tolerance = ours.recipe.tolerance if ours is not None else Tolerance()
    return _verdict(left, right, ours, theirs, registry, tolerance=tolerance, relaxed=None, until=None)


def _verdict(
    left: StoredRun,
    right: StoredRun,
    ours: RunLock | None,
    theirs: RunLock | None,
    registry: Registry,
    *,
    tolerance: Tolerance,
    relaxed: list[str] | None,
    until: int | None,
) -> Verdict:
    """Compare two sides; `relaxed` None means that whatever their locks differ in was relaxed."""
    one, other = side_of(left, ours, registry), side_of(right, theirs, registry)
    causes = causes_between(
        ours,
        theirs,
        machines=(left.record.machine, right.record.machine),
        code=_code_diff(left, right, ours, theirs),
        data=_data_diffs(ours, theirs, registry),
        cells=_cell_diffs(left, right, ours, theirs, registry),
    )
    if relaxed is None:
        relaxed = [cause for cause in causes if not cause.startswith("machine: ")]
    return compare(one, other, tolerance=tolerance, relaxed=relaxed, causes=causes, until=until)


def side_of(run: StoredRun, lock: RunLock | None, registry: Registry) -> Side:
    """Return a run as `compare` takes it."""

    def load(entry: CheckpointEntry) -> Checkpoint:
        return Checkpoint(Package.open(PackageRef(entry.package, hash=entry.top_hash), registry=registry))

    def output(path: str) -> bytes:
        entry = run.manifest[f"outputs/{path}"]
        return registry.read_object(entry, what=f"outputs/{path} of run {run.record.run_id}")

    return Side(record=run.record, lock=lock, load=load, output=output)


def _code_diff(left: StoredRun, right: StoredRun, ours: RunLock | None, theirs: RunLock | None) -> ManifestDiff | None:
    if ours is None or theirs is None or ours.code.tree == theirs.code.tree:
        return None
    return _part(left.manifest, "code").diff(_part(right.manifest, "code"))


def _cell_diffs(
    left: StoredRun, right: StoredRun, ours: RunLock | None, theirs: RunLock | None, registry: Registry
) -> dict[str, list[str]]:
    """Return, of the notebook that both runs execute, which cells changed; by its key among the code's entries."""
    if ours is None or theirs is None or ours.code.tree == theirs.code.tree:
        return {}
    name = ours.recipe.code.notebook
    if name is None or theirs.recipe.code.notebook != name:
        return {}
    key = CODE_PREFIX + name
    if key not in left.manifest or key not in right.manifest:
        return {}
    one, other = (
        Notebook.parse(registry.read_object(run.manifest[key], what=f"{key} of run {run.record.run_id}"), what=name)
        for run in (left, right)
    )
    return {key: changed_cells(one, other)}


def _part(manifest: Manifest, folder: str) -> Manifest:
    return Manifest.make(manifest.below(folder))


def _data_diffs(ours: RunLock | None, theirs: RunLock | None, registry: Registry) -> dict[str, ManifestDiff]:
    found: dict[str, ManifestDiff] = {}
    if ours is None or theirs is None:
        return found
    others = {pin.name: pin for pin in theirs.data}
    for pin in ours.data:
        other = others.get(pin.name)
        if other is None or other.identity == pin.identity:
            continue
        try:
            one, two = (part_of(each, registry.read_manifest(each.top_hash)) for each in (pin, other))
            found[pin.name] = one.manifest.diff(two.manifest)
        except NotFoundError:
            continue
    return found
