"""Execute a lock: lay the workspace out, start the script in its process, serve it, record it.

`run` and `reproduce` share `execute`; they differ in where the lock comes from and in what is done with the record.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from reprokit import recipe as recipes
from reprokit._version import __version__
from reprokit.code import Repository, code_entries
from reprokit.config import Config
from reprokit.data import check_inputs, lay_data
from reprokit.determinism import as_text, child_variables
from reprokit.environment.capture import importable_folders
from reprokit.errors import DataMismatchError, NotFoundError, RecipeError
from reprokit.journal import Journal
from reprokit.lock import RunLock
from reprokit.locking import lock_run, read_recipe, recipe_lock_for, recipe_lock_path
from reprokit.machine import machine_facts
from reprokit.manifest import Entry, Manifest
from reprokit.process import Echo, Outcome, ScriptProcess
from reprokit.progress import SILENT, Progress
from reprokit.recipe import Recipe
from reprokit.record import CodeFacts, EnvironmentFacts, OutputFacts, Record
from reprokit.recording import Recording, new_run_id, now, recover
from reprokit.registry import Registry, open_registry
from reprokit.runs import RunStore
from reprokit.session import Observer, Session, SessionPolicy
from reprokit.workspace import find_outputs, lay_code, written_files

__all__ = ["Prepared", "execute", "prepare", "run"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A lock and everything that must be in the registry to execute it."""

    lock: RunLock
    entries: list[Entry]
    code: CodeFacts
    name: str
    warnings: list[str] = field(default_factory=list)
    in_place: Path | None = None


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
) -> Record:
    """Run a recipe and return its record, whatever became of the script: look at `record.status`.

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


def same_lock(runs: RunStore, lock_hash: str) -> str | None:
    """Return the newest finished run of this declared experiment, None if there is none."""
    found = None
    for summary in runs.summaries():
        if summary.get("lock_hash") == lock_hash and summary.get("status") == "finished":
            found = str(summary["run"])
    return found


def prepare(
    path: Path,
    *,
    config: Config,
    registry: Registry,
    params: Mapping[str, Any],
    seed: int | None,
    exact: bool,
    allow_dirty: bool,
    in_place: bool,
    name: str | None,
    progress: Progress = SILENT,
    store: bool = True,
) -> Prepared:
    """Lock a recipe as it stands, and store its code in the registry (with `store`)."""
    recipe = with_params(read_recipe(path), params, seed)
    repository = Repository(path.absolute().parent)
    ignore = repository.relative(recipe_lock_path(path.absolute()))
    with repository.capture(allow_dirty=allow_dirty or in_place, ignore=(ignore,)) as capture:
        check_entrypoint(recipe, {blob.path for blob in capture.blobs}, repository.root)
        with progress.task("Capturing the environment", None):
            pins = recipe_lock_for(
                path, recipe, registry=registry, root=repository.root, cache=config.cache, exact=exact
            )
        code = msgspec.structs.replace(capture.identity, python_path=importable_folders(repository.root))
        lock = lock_run(recipe, code, pins)
        entries: list[Entry] = []
        warnings: list[str] = []
        if store:
            with progress.task("Storing the code", None), registry.staging() as sink:
                entries, warnings = code_entries(repository, capture, sink)
                for key, data in (("recipe.yaml", path.read_bytes()), ("code.patch", capture.patch)):
                    if data:
                        digest, size = sink.put_bytes(data)
                        entries.append(Entry(key, size, digest))
        facts = capture.facts
    if sys.prefix == sys.base_prefix and not recipe_lock_path(path).exists():
        warnings.append(f"This is not a virtual environment: {sys.prefix} is shared with other work.")
    warnings += ignored_python_path(repository.root)
    return Prepared(
        lock=lock,
        entries=entries,
        code=facts,
        name=name or recipe.name,
        warnings=warnings,
        in_place=repository.root if in_place else None,
    )


def ignored_python_path(root: Path) -> list[str]:
    """Return a warning for folders on PYTHONPATH that are neither code of this repository nor environment."""
    ours = Path(__file__).resolve().parents[1]
    places = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    dropped = [str(place) for place in places if place != ours and not place.is_relative_to(root.resolve())]
    if not dropped:
        return []
    return [f"PYTHONPATH is not part of the locked environment; the script does not get {', '.join(dropped)}."]


def with_params(recipe: Recipe, params: Mapping[str, Any], seed: int | None) -> Recipe:
    """Return the recipe with parameters and seed replaced; a parameter that it does not declare is refused."""
    for key in params:
        if key not in recipe.params:
            close = get_close_matches(key, recipe.params, n=1)
            guess = f"Did you mean {close[0]!r}? " if close else ""
            raise RecipeError(
                f"The recipe declares no parameter {key!r}.",
                hint=f"{guess}Declared: {', '.join(recipe.params) or 'none'}.",
            )
    plain = recipes.to_plain(recipe)
    if params:
        plain["params"] = {**recipe.params, **params}
    if seed is not None:
        plain["execution"] = {**plain.get("execution", {}), "seed": seed}
    return recipes.from_plain(plain)


def check_entrypoint(recipe: Recipe, files: set[str], root: Path) -> None:
    entrypoint = recipe.code.entrypoint
    if entrypoint is None or entrypoint in files:
        return
    if (root / entrypoint).exists():
        raise NotFoundError(
            f"code.entrypoint: {entrypoint} is not tracked by git.", hint=f"Run `git add {entrypoint}`."
        )
    close = get_close_matches(entrypoint, files, n=1)
    guess = f"Did you mean {close[0]}?" if close else "Paths are relative to the repository root."
    raise NotFoundError(f"code.entrypoint: {entrypoint} is not in the repository {root}.", hint=guess)


def execute(
    prepared: Prepared,
    *,
    config: Config,
    registry: Registry,
    reproduces: str | None = None,
    relaxed: list[str] | None = None,
    until: int | None = None,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
    conclude: Callable[[Record, Manifest], Record] | None = None,
) -> Recording:
    """Execute a lock and record it.

    Args:
        reproduces: The run that this one repeats; its checkpoints then move no tags.
        until: Stop after this epoch (from 0).
        conclude: Called with the ended record; what it returns is published as the last version.
    """
    lock = prepared.lock
    run_id = new_run_id()
    journal = Journal.create(config.home, run_id)
    workspace = prepared.in_place or journal.file("workspace")
    made: list[Path] = []
    ended = False
    try:
        code = Manifest.make([entry for entry in prepared.entries if entry.logical_key.startswith("code/")])
        if prepared.in_place is None:
            lay_code(code, lock.code, workspace, registry=registry, progress=progress)
        facts, trees = lay_data(
            lock.data,
            workspace,
            registry=registry,
            cache=config.cache,
            layout="copy" if lock.execution.layout == "copy" else "symlink",
            progress=progress,
        )
        made = [workspace / pin.path for pin in lock.data]
        with tempfile.TemporaryDirectory(prefix="reprokit-") as name:
            scratch = Path(name)
            variables = _variables(prepared, run_id, scratch, workspace, journal, config, until)
            record = Record(
                run_id=run_id,
                name=prepared.name,
                status="running",
                lock_hash=lock.hash,
                code=prepared.code,
                environment=EnvironmentFacts(
                    hash=lock.environment.hash,
                    packages=len(lock.environment.pip) + len(lock.environment.conda),
                    python=lock.environment.python,
                ),
                data=facts,
                machine=machine_facts(variables),
                params=lock.params,
                execution={**msgspec.to_builtins(lock.execution), "in_place": prepared.in_place is not None},
                started=now(),
                checkpoint_package=lock.recipe.checkpoint_package,
                reproduces=reproduces,
                relaxed=relaxed or [],
                warnings=prepared.warnings,
                reprokit=__version__,
            )
            policy = SessionPolicy(
                run_id=run_id,
                name=prepared.name,
                package=lock.recipe.checkpoint_package,
                best=lock.recipe.checkpoints.best,
                inputs=[{"name": p.name, "package": p.package, "top_hash": p.top_hash} for p in lock.data],
                lock_hash=lock.hash,
                move_tags=reproduces is None,
            )
            with Recording.start(record, prepared.entries, lock=lock, registry=registry, journal=journal) as recording:
                session = Session(registry=registry, journal=journal, policy=policy, observer=observer)
                session.listen(scratch / "socket")
                outcome = ScriptProcess(
                    _command(lock), workspace / lock.recipe.code.workdir, variables, journal, echo
                ).run()
                session.finish()
                spoilt = check_inputs(trees)
                if spoilt is not None:
                    outcome = replace(outcome, status="failed", failure=spoilt)
                record = _conclude(recording, session, outcome, lock, workspace)
                ended = True
                if spoilt is not None:
                    raise DataMismatchError(
                        spoilt, hint="The cache's copy was discarded: run again. See that nothing writes to inputs."
                    )
                if conclude is not None:
                    recording.amend(conclude(record, recording.manifest))
        return recording
    finally:
        if prepared.in_place is not None or lock.execution.layout != "copy":
            for place in made:
                if place.is_symlink():
                    place.unlink()
        if ended:
            journal.close(keep_workspace=prepared.in_place is None and bool(recording.left_behind))
        elif not journal.file("journal.jsonl").stat().st_size:
            journal.close(keep_workspace=False)  # nothing was started
        else:
            journal.leave()


def _variables(
    prepared: Prepared, run_id: str, scratch: Path, workspace: Path, journal: Journal, config: Config, until: int | None
) -> dict[str, str]:
    """Write what the script's process needs into `scratch`, and return its variables."""
    lock = prepared.lock
    package = Path(__file__).resolve().parent
    boot = scratch / "boot"
    boot.mkdir()
    (boot / "sitecustomize.py").symlink_to(package / "client" / "boot" / "sitecustomize.py")
    (boot / "reprokit").symlink_to(package, target_is_directory=True)
    context = scratch / "context.json"
    told = {
        "run_id": run_id,
        "params": lock.params,
        "every": lock.recipe.every_epochs,
        "until": until,
        "data": [
            {"name": pin.name, "package": pin.package, "top_hash": pin.top_hash, "folder": str(workspace / pin.path)}
            for pin in lock.data
        ],
    }
    context.write_text(json.dumps(told))
    variables = child_variables(
        lock,
        inherited=os.environ,
        run_id=run_id,
        scratch=scratch,
        socket=scratch / "socket",
        context=context,
        report=journal.file("inputs.txt"),
        python_path=[boot, *(workspace / folder for folder in lock.code.python_path)],
        readable=[workspace, config.cache / "trees", package],
    )
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    return variables


def _command(lock: RunLock) -> list[str]:
    code = lock.recipe.code
    command = [sys.executable, code.entrypoint] if code.entrypoint is not None else list(code.command or [])
    if code.entrypoint is not None and code.workdir != ".":
        command[1] = os.path.relpath(code.entrypoint, code.workdir)
    if lock.execution.params == "flags":
        for key, value in lock.params.items():
            command += [f"--{key}", as_text(value)]
    return command


def _conclude(recording: Recording, session: Session, outcome: Outcome, lock: RunLock, workspace: Path) -> Record:
    """Publish the end of a run: what it wrote, what it logged, what went wrong."""
    collected = session.collected
    record = recording.record
    warnings = [*record.warnings]
    outputs: dict[str, Path] = {}
    facts = []
    for declared, path, file in find_outputs(lock.recipe.declared_outputs, workspace):
        facts.append(OutputFacts(path=path, compare=declared.compare, missing=file is None))
        if file is not None:
            outputs[path] = file
        elif outcome.status == "finished":
            warnings.append(f"The declared output {path!r} was not written.")
    undeclared = _undeclared(recording.journal.file("inputs.txt"))
    if undeclared:
        shown = ", ".join(undeclared[:10]) + (f" and {len(undeclared) - 10} more" if len(undeclared) > 10 else "")
        warnings.append(f"Files were read that are not declared inputs: {shown}.")
    if not collected.checkpoints and outcome.status == "finished":
        warnings.append("No checkpoint was saved: a reproduction can compare only the outputs.")
    warnings += [f"Not stored: {text}" for text in collected.errors]
    left = _left_behind(recording, workspace, set(outputs), lock) if outcome.status == "finished" else ["(all)"]
    if left and outcome.status == "finished":
        warnings.append(
            f"Files were written that are not declared outputs ({', '.join(left[:5])}{'…' if len(left) > 5 else ''}); "
            f"they stay in {workspace}."
        )
    recording.left_behind = left
    machine = {**record.machine, "numeric": {**record.machine["numeric"], **collected.numeric}}
    return recording.end(
        msgspec.structs.replace(
            record,
            status=outcome.status,
            ended=now(),
            machine=machine,
            initial=collected.initial,
            checkpoints=collected.checkpoints,
            metrics=collected.metrics,
            artifacts=sorted(collected.artifacts),
            outputs=facts,
            warnings=warnings,
            failure=outcome.failure,
            exit_code=outcome.exit_code,
        ),
        collected=collected,
        outputs=outputs,
    )


def _undeclared(report: Path) -> list[str]:
    try:
        return sorted({os.fsdecode(line) for line in report.read_bytes().split(b"\n") if line})
    except FileNotFoundError:
        return []


def _left_behind(recording: Recording, workspace: Path, outputs: set[str], lock: RunLock) -> list[str]:
    if recording.record.execution.get("in_place"):
        return []
    known = {entry.logical_key.removeprefix("code/") for entry in recording.manifest.below("code")} | outputs
    data = tuple(pin.path + "/" for pin in lock.data)
    return [name for name in written_files(workspace, known) if not name.startswith(data)]
