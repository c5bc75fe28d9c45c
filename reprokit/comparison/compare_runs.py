"""Load two runs with everything that lies between them, and have them compared."""

from __future__ import annotations

import ast
import warnings

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.causes import Between, causes_between
from reprokit.comparison.files.text_diff import compare_texts
from reprokit.comparison.ladder import Side, Terms, compare
from reprokit.comparison.record_check import contradictions
from reprokit.comparison.unpinned import unpinned_causes
from reprokit.errors import NotFoundError
from reprokit.locking.inputs import part_of
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.runs.logged import read_logged
from reprokit.runs.store import CODE_PREFIX, RunStore, StoredRun
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Manifest, ManifestDiff
from reprokit.schema.notebook import Notebook, changed_cells
from reprokit.schema.recipe import Tolerance
from reprokit.schema.record import CheckpointEntry
from reprokit.schema.verdict import Verdict

__all__ = ["compare_runs", "compare_with", "open_checkpoint", "side_of"]

_MAX_FILES, _MAX_TEXT, _MAX_LINE = 20, 512 * 1024, 400  # of the code whose lines are compared


def compare_runs(left: StoredRun, right: StoredRun, *, registry: Registry, values: bool = True) -> Verdict:
    """Compare two runs as they are, without running anything; the left one's tolerance counts.

    Where their locks differ, each difference counts as relaxed: equal bits of two experiments are not a reproduction.

    Args:
        values: Without, no object of a checkpoint is read, unless the left one's recipe declares a tolerance of
            weights: that is judged by values alone.
    """
    runs = RunStore(registry)
    ours, theirs = runs.find_lock(left), runs.find_lock(right)
    tolerance = ours.recipe.tolerance if ours is not None else Tolerance()
    return compare_with(left, right, (ours, theirs), Terms(tolerance=tolerance, values=values), registry=registry)


def compare_with(
    left: StoredRun, right: StoredRun, locks: tuple[RunLock | None, RunLock | None], terms: Terms, *, registry: Registry
) -> Verdict:
    """Compare two runs whose locks are at hand."""
    ours, theirs = locks
    causes = causes_between(ours, theirs, _between(left, right, ours, theirs, registry))
    one, other = (
        side_of(run, lock, registry, thorough=terms.thorough) for run, lock in ((left, ours), (right, theirs))
    )
    return compare(one, other, terms, causes=causes)


def side_of(run: StoredRun, lock: RunLock | None, registry: Registry, *, thorough: bool) -> Side:
    """Return a run as `compare` takes it: with what contradicts its record, from metadata alone unless `thorough`."""

    def load(entry: CheckpointEntry) -> Checkpoint:
        return open_checkpoint(entry, registry)

    def listed(entry: CheckpointEntry) -> object:
        return registry.read_manifest(entry.top_hash).entries if thorough else registry.listing(entry.top_hash)

    def output(path: str) -> bytes:
        entry = run.manifest[f"outputs/{path}"]
        return registry.read_object(entry, what=f"outputs/{path} of run {run.record.run_id}")

    found = contradictions(run, lock, registry, thorough=thorough)
    return Side(
        record=run.record, lock=lock, load=load, listed=listed, output=output,
        logged=lambda: read_logged(run, registry), contradictions=found,
    )  # fmt: skip


def open_checkpoint(entry: CheckpointEntry, registry: Registry) -> Checkpoint:
    """Open a checkpoint that a record names, without a look at the log of its package, which can be long."""
    return Checkpoint(Package(entry.package, registry.read_manifest(entry.top_hash), registry))


def _between(
    left: StoredRun, right: StoredRun, ours: RunLock | None, theirs: RunLock | None, registry: Registry
) -> Between:
    records = (left.record, right.record)
    code = _code_diff(left, right, ours, theirs)
    lines, same = _line_diffs(left, right, code, registry) if code is not None else ({}, frozenset())
    return Between(
        machines=(left.record.machine, right.record.machine),
        code=code,
        cells=_cell_diffs(left, right, ours, theirs, registry),
        lines=lines,
        same=same,
        imported_files=_told([record.code.imported or None if record.code else None for record in records]),
        opened_files=_told([record.code.opened if record.code else None for record in records]),
        data=_data_diffs(ours, theirs, registry),
        unused=frozenset(left.record.unused) & frozenset(right.record.unused),
        imported=frozenset(name for record in records for name in record.machine.imported),
        undeclared=(left.record.undeclared, right.record.undeclared),
        unpinned=(*unpinned_causes(left.record, right.record),),
        programs=(left.record.programs, right.record.programs),
        params=(left.record.params, right.record.params),
        other=right.record.run_id,
    )


def _told(names: list[list[str] | None]) -> frozenset[str] | None:
    """Return the files that either run used; None if one of them did not tell. No run imports nothing."""
    known = [some for some in names if some is not None]
    return frozenset(name for some in known for name in some) if len(known) == len(names) else None


def _code_diff(left: StoredRun, right: StoredRun, ours: RunLock | None, theirs: RunLock | None) -> ManifestDiff | None:
    if ours is None or theirs is None or ours.code.tree == theirs.code.tree:
        return None
    return _part(left.manifest, "code").diff(_part(right.manifest, "code"))


def _line_diffs(
    left: StoredRun, right: StoredRun, diff: ManifestDiff, registry: Registry
) -> tuple[dict[str, list[str]], frozenset[str]]:
    """Return, of the first files that differ, how their texts do, as `diff -u` would say it; and which are one program.

    Two modules are the same program if they parse to the same tree: then they differ in comments and layout alone.
    """
    found: dict[str, list[str]] = {}
    same = set()
    named = [key for key in [*diff.changed, *diff.added, *diff.removed] if not key.endswith(".ipynb")]
    for key in named[:_MAX_FILES]:
        texts = []
        for run in (left, right):
            entry = run.manifest.by_key.get(key)
            if entry is not None and entry.size > _MAX_TEXT:
                break
            what = f"{key} of run {run.record.run_id}"
            try:
                texts.append("" if entry is None else registry.read_object(entry, what=what).decode())
            except UnicodeDecodeError:
                break
        if len(texts) == 2:
            name = key.removeprefix(CODE_PREFIX)
            lines = (line[:_MAX_LINE] for line in compare_texts(*texts))
            found[key] = [f"--- {name}", f"+++ {name}", *lines]
            if key.endswith(".py") and all(texts) and _is_one_program(*texts):
                same.add(key)
    return found, frozenset(same)


def _is_one_program(one: str, other: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's, on the style of what a stranger wrote
            return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


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
