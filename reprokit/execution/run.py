"""Run a recipe: lock it as it stands, store its code, execute the lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

from reprokit.client.interactive import InteractiveRun
from reprokit.core.canonical_json import canonical
from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import UsageError
from reprokit.execution.execute import execute
from reprokit.execution.script_process import Echo
from reprokit.locking.prepare import prepare
from reprokit.recording.checkpoint_saver import Observer
from reprokit.recording.recorder import recover
from reprokit.registry import open_registry
from reprokit.runs.store import RunStore
from reprokit.schema.record import Record

__all__ = ["run"]


@overload
def run(
    recipe: None = None,
    *,
    registry: str | None = None,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> InteractiveRun: ...


@overload
def run(
    recipe: str | Path,
    *,
    registry: str | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    env: str = "exact",
    allow_dirty: bool = False,
    in_place: bool = False,
    name: str | None = None,
    reuse: bool = False,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
) -> Record: ...


def run(
    recipe: str | Path | None = None,
    *,
    registry: str | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    env: str = "exact",
    allow_dirty: bool = False,
    in_place: bool = False,
    name: str | None = None,
    reuse: bool = False,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
) -> Record | InteractiveRun:
    """Run a recipe and return its record, whatever became of the script: look at `record.status`.

    Without a recipe, `with reprokit.run(name=…, params=…):` records what is saved and logged inside the block, such as
    in a notebook. Its record says that it cannot be reproduced, and why.

    Args:
        registry: Address; the configured one if None.
        params: Override parameters that the recipe declares.
        env: `exact` refuses an environment that differs from the recipe's lock file, `current` pins the one found.
        allow_dirty: Capture uncommitted changes in the record.
        in_place: Execute in the working tree itself; marked so in the record.
        reuse: Return a finished run with the same lock hash, if there is one, instead of repeating it.
    Raises:
        Error: Before the script was started: a recipe, code, data, environment or registry that is not in order.
    """
    if recipe is None:
        if (seed, env, allow_dirty, in_place, reuse) != (None, "exact", False, False, False):
            raise UsageError("seed, env, allow_dirty, in_place and reuse go with a recipe.")
        return InteractiveRun(name=name or "interactive", params=_json_params(params or {}), registry=registry)
    path = Path(recipe)
    config = Config.load(registry=registry, folder=path.absolute().parent)
    store = open_registry(config.registry)
    recover(config.home)
    prepared = prepare(
        path,
        config=config,
        registry=store,
        params=params or {},
        seed=seed,
        exact=env == "exact",
        allow_dirty=allow_dirty,
        in_place=in_place,
        name=name,
        progress=progress,
    )
    twin = same_lock(RunStore(store), prepared.lock.hash)
    if twin is not None and reuse:
        return RunStore(store).load(twin).record
    if twin is not None:
        progress.note(f"Run {twin} has the same lock; --reuse returns it instead of repeating it.")
    return execute(prepared, config=config, registry=store, progress=progress, observer=observer, echo=echo).record


def _json_params(params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        canonical(dict(params))
    except (ValueError, TypeError) as error:
        raise UsageError(f"params: a value is not JSON, NaN or infinite: {error}.") from None
    return dict(params)


def same_lock(runs: RunStore, lock_hash: str) -> str | None:
    """Return the newest finished run of this declared experiment, None if there is none."""
    found = None
    for summary in runs.summaries():
        if summary.get("lock_hash") == lock_hash and summary.get("status") == "finished":
            found = str(summary["run"])
    return found
