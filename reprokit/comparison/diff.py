"""Compare what two references name, like with like: runs, checkpoints, versions of packages."""

from __future__ import annotations

from collections.abc import Sequence

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.compare_runs import open_checkpoint
from reprokit.comparison.package_diff import PackageDiff, diff_packages
from reprokit.comparison.run_diff import CheckpointDiff, RunDiff, diff_checkpoints, diff_runs
from reprokit.core.refs import is_package_ref, parse_run
from reprokit.errors import UsageError
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import CheckpointFacts, facts_in

__all__ = ["diff"]


def diff(
    left: str, right: str, keys: Sequence[str] = (), *, registry: Registry, content: bool = False, tensors: bool = False
) -> RunDiff | CheckpointDiff | PackageDiff:
    """Compare two runs, two checkpoints or two versions of packages, without running anything.

    Args:
        left, right: Runs (`20261123-…`, `latest`), checkpoints (`RUN@epoch=2`) or versions (`ns/name:tag`).
        keys: Of versions: files and folders to look into.
        content: Say what changed inside: in the code of runs, in the files of versions.
        tensors: Read the tensors that differ, and say by how much.
    Raises:
        UsageError: The two are not alike, or something was asked for that does not go with them.
        NotFoundError: There is no such run, checkpoint, version or file.
    """
    one, other = _opened(left, registry), _opened(right, registry)
    if isinstance(one, StoredRun) and isinstance(other, StoredRun):
        if keys:
            raise UsageError(
                "Files are compared between versions, not between runs; --content shows those of the code."
            )
        if one.record.run_id == other.record.run_id:
            raise UsageError(
                f"{left} and {right} are one run, {one.record.run_id}: it equals itself, which shows nothing.",
                hint="`reprokit ls` lists the runs.",
            )
        return diff_runs(one, other, registry=registry, values=tensors, content=content)
    if isinstance(one, StoredRun) or isinstance(other, StoredRun):
        kinds = ["a run" if isinstance(side, StoredRun) else "a checkpoint or package" for side in (one, other)]
        raise UsageError(
            f"{left} is {kinds[0]}, {right} is {kinds[1]}: only like is compared with like.",
            hint="Name two runs, or a checkpoint of each: RUN@last, RUN@epoch=2.",
        )
    if keys or content or not (_is_checkpoint(one) or _is_checkpoint(other)):
        if tensors:
            raise UsageError("--tensors compares checkpoints, not the files of versions.")
        return diff_packages(one, other, keys, content=content)
    for text, side in ((left, one), (right, other)):
        if not _is_checkpoint(side):
            raise UsageError(
                f"{text} is no checkpoint, but what it is compared with is one.",
                hint="With --content, or with KEYS, the files of any two versions are compared.",
            )
    return diff_checkpoints(Checkpoint(one), Checkpoint(other), values=tensors)


def _opened(text: str, registry: Registry) -> StoredRun | Package:
    """Return the run that `text` names; or the version, of a package or of a run's checkpoint."""
    if is_package_ref(text):
        return Package.open(text, registry=registry)
    runs, ref = RunStore(registry), parse_run(text)
    if ref.selector is None:
        return runs.load(ref.run)
    return open_checkpoint(runs.checkpoint(ref), registry).package


def _is_checkpoint(package: Package) -> bool:
    return facts_in(package.manifest.user_meta, CheckpointFacts) is not None
