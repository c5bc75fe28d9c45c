"""Data: which version an input names (world → lock), and its files in a workspace (lock → world)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from reprokit.core.logical_keys import check_relative
from reprokit.core.refs import RESERVED, PackageRef, RunRef, parse_run
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.registry import Registry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.lock import DataPin
from reprokit.schema.manifest import Manifest
from reprokit.schema.recipe import DataInput, Recipe

__all__ = ["Part", "output_name", "part_of", "pin_data", "pin_input"]

_OUTPUTS = "outputs"  # where a run's record keeps what the script declared


class Part(NamedTuple):
    """What of a version is laid out: its files by their keys there; `file` is the name of the only one if no folder."""

    manifest: Manifest
    file: str | None = None

    @property
    def content(self) -> str:
        """The digest of nothing but the files, as `DataPin` says."""
        return self.manifest.top_hash if self.file is None else self.manifest[self.file].digest.hex


def pin_data(recipe: Recipe, *, registry: Registry, runs: RunStore) -> list[DataPin]:
    """Return the version of every input, as the registry stands now.

    Raises:
        NotFoundError: No such package, version, run, checkpoint or output.
        RefusedError: The run has not ended; or it failed, and it is an output that is wanted.
    """
    return [pin_input(name, item, registry=registry, runs=runs) for name, item in recipe.data.items()]


def pin_input(name: str, item: DataInput, *, registry: Registry, runs: RunStore) -> DataPin:
    """Return the version of one input; all else as for `pin_data`."""
    if item.run is None:
        ref = PackageRef.parse(str(item.package))
        pin = DataPin(name=name, package=ref.name, top_hash=registry.resolve(ref), path=item.path)
        return pin if item.entry is None else _pin_entry(pin, item.entry, registry)
    ref_run = parse_run(item.run)
    run = runs.load(ref_run.run)
    if run.record.status == "running":
        raise RefusedError(
            f"data.{name}: run {run.record.run_id} is still running: what it makes is not known yet.",
            hint="Wait for its end. A checkpoint that it has saved can be named as a version: `package: NS/NAME@HASH`.",
        )
    if item.output is not None:
        return _pin_output(name, item, run)
    return _pin_checkpoint(name, item, ref_run, run, registry, runs)


def _pin_entry(pin: DataPin, entry: str, registry: Registry) -> DataPin:
    part = _cut(registry.read_manifest(pin.top_hash), entry)
    if not part.manifest.entries:
        raise NotFoundError(
            f"data.{pin.name}: {pin} has nothing at {entry!r}.", hint=f"`reprokit ls {pin}` lists what it has."
        )
    return msgspec.structs.replace(pin, within=entry, content=part.content)


def _pin_checkpoint(
    name: str, item: DataInput, ref: RunRef, run: StoredRun, registry: Registry, runs: RunStore
) -> DataPin:
    record = run.record
    try:
        chosen = runs.select(run, ref.selector)
    except NotFoundError as error:
        kept = _outputs_of(run)
        hint = f"For an output, write `output:` and one of: {kept}." if kept and not record.checkpoints else error.hint
        raise NotFoundError(f"data.{name}: {error.message}", hint=hint) from None
    selector = record.selector_of(chosen)
    exact = RunRef(record.run_id, selector)
    if chosen.top_hash not in registry.top_hashes(chosen.package):
        raise NotFoundError(
            f"data.{name}: checkpoint {exact} was {chosen.package}@{chosen.top_hash[:8]}, "
            f"which is not in {registry.url} any more.",
            hint=f"Pull it from another registry, or name another: `reprokit ls {record.run_id}` lists them.",
        )
    content = _cut(registry.read_manifest(chosen.top_hash), None).content
    return DataPin(
        name=name,
        package=chosen.package,
        top_hash=chosen.top_hash,
        path=item.path,
        run=str(exact),
        content=content,
    )


def _pin_output(name: str, item: DataInput, run: StoredRun) -> DataPin:
    record = run.record
    wanted = check_relative(str(item.output), what=f"data.{name}.output")
    if record.status != "finished":
        raise RefusedError(
            f"data.{name}: run {record.run_id} {_ENDED[record.status]}, so its outputs may not be whole.",
            hint="Name a run that finished. Of such a run, only checkpoints can be an input: `run: RUN@last`.",
        )
    within = _OUTPUTS if wanted == "." else f"{_OUTPUTS}/{wanted}"
    part = _cut(run.manifest, within)
    if not part.manifest.entries:
        declared = next((output for output in record.outputs if output.path == wanted), None)
        why = "" if declared is None else f": it was written, and is not kept: {declared.unkept}."
        why = ": it was declared, and not written." if declared is not None and declared.missing else why
        raise NotFoundError(
            f"data.{name}: run {record.run_id} has no output {wanted!r}" + (why or "."),
            hint=f"It has: {_outputs_of(run) or 'none'}. Outputs are what its recipe declares under `outputs:`.",
        )
    return DataPin(
        name=name,
        package=f"{RESERVED}/{record.run_id}",
        top_hash=run.manifest.top_hash,
        path=item.path,
        run=record.run_id,
        within=within,
        content=part.content,
    )


_ENDED = {"failed": "failed", "interrupted": "was interrupted"}


def _outputs_of(run: StoredRun) -> str:
    """Return the names of a run's outputs for people: folders at the top, and files."""
    keys = [output_name(entry.logical_key) for entry in run.manifest.below(_OUTPUTS)]
    names = list(
        dict.fromkeys(f"{folder}/" if slash else folder for folder, slash, _ in (k.partition("/") for k in keys))
    )
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def output_name(key: str) -> str:
    """Return how a recipe names the output whose logical key in the run's record this is."""
    return key.removeprefix(_OUTPUTS).removeprefix("/") or "."


def part_of(pin: DataPin, manifest: Manifest) -> Part:
    """Return what of a pinned version is laid out.

    Raises:
        DataMismatchError: It is not what the pin says.
    """
    if pin.content is None:
        return Part(manifest)
    part = _cut(manifest, pin.within)
    if part.content != pin.content:
        raise DataMismatchError(
            f"{pin} is not what the lock says: expected {pin.content[:12]}…, found {part.content[:12]}….",
            hint="The lock was edited: lock the recipe anew.",
        )
    return part


def _cut(manifest: Manifest, within: str | None) -> Part:
    """Return the files of a folder, or of all, or one file; without metadata, which is not laid out."""
    if within is not None and within in manifest:
        file = within.rpartition("/")[2]
        return Part(Manifest.make([manifest[within]._replace(logical_key=file, meta={})]), file)
    entries = manifest.entries if within is None else manifest.below(within)
    start = 0 if within is None else len(within) + 1
    return Part(Manifest.make(entry._replace(logical_key=entry.logical_key[start:], meta={}) for entry in entries))
