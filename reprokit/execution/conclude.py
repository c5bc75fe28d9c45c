"""The end of a run: what its script wrote, read, asked for and left behind, put into its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from reprokit.environment.imported_packages import packages_behind
from reprokit.errors import Error
from reprokit.execution.asked import Asked
from reprokit.execution.in_place import stray_files, stray_warning
from reprokit.execution.inputs import ChangedInput
from reprokit.execution.missing import missing_inputs, missing_package
from reprokit.execution.script_process import Outcome
from reprokit.execution.variables_read import Given, VariableKey, variable_warnings, variables_read
from reprokit.execution.workspace import find_outputs, written_files
from reprokit.locking.prepared import Prepared
from reprokit.recording.earlier import with_earlier
from reprokit.recording.input_report import InputReport, digested, programs_of, some
from reprokit.recording.recorder import Recording, now
from reprokit.recording.server import Session
from reprokit.runs.provisos import is_benign
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import RunLock
from reprokit.schema.record import CodeFacts, OutputFacts, Record, StrayFile

__all__ = ["concluded"]


def concluded(
    recording: Recording,
    session: Session,
    outcome: Outcome,
    prepared: Prepared,
    workspace: Path,
    *,
    resumes: bool,
    given: Given,
    home: Path,
    changed: dict[str, ChangedInput],
) -> Record:
    """Publish the end of a run; return its record.

    Args:
        workspace: Where the script wrote.
        resumes: It was given a checkpoint to go on from.
        given: The environment that it had.
        home: Where the key of variables is.
        changed: Inputs that are not what they were at the beginning.
    Raises:
        RegistryError: The registry cannot be written; it says where everything is meanwhile.
    """
    collected, lock = session.collected, prepared.lock
    record = recording.record
    warnings = [*record.warnings, *(one.text for one in changed.values() if not one.before)]
    outputs: dict[str, Path] = {}
    facts = []
    for declared, path, file, unkept in find_outputs(lock.recipe.declared_outputs, workspace):
        missing = file is None and unkept is None
        facts.append(OutputFacts(path=path, compare=declared.compare, missing=missing, unkept=unkept))
        if file is not None:
            outputs[path] = file
        elif missing and outcome.status == "finished":
            warnings.append(f"The declared output {path!r} was not written.")
    noted = InputReport.read(recording.journal.file("inputs.txt"))
    undeclared = digested(noted)
    asked = Asked.read(recording.journal.file("asked.txt"))
    read = _variables_read(asked, lock, given, home)
    unused = asked.unused(lock, workspace) if outcome.status == "finished" else []
    if read_so := [file.path for file in undeclared if not is_benign(file.path, lock.execution.benign)]:
        warnings.append(f"Files were read that are not declared inputs: {some(read_so)}.")
    if noted.refused:
        went_on = "The script went on without what it was refused, not being declared"
        what = went_on if outcome.status == "finished" else "What is not a declared input was refused"
        warnings.append(f"{what}: {some(noted.refused)}.")
    warnings += variable_warnings(read["variables"])
    if unused:
        warnings.append(
            f"Parameters never reached the script: {', '.join(unused)}. It gets them by `reprokit.params()`, or on its "
            "command line with `execution: {params: flags}`; until then the record marks them as unused."
        )
    if not collected.checkpoints and outcome.status == "finished":
        warnings.append(
            "No checkpoint was saved: a reproduction can compare only the outputs. Of a model that is fitted at once, "
            "`PackageCheckpoint().save(model)` saves one; `reprokit init SCRIPT` shows the lines for a loop."
        )
    attempts, resumption = collected.attempts(record.attempts, not_restored=resumes and not collected.resumed)
    warnings += resumption
    if outcome.outlived is not None:
        warnings.append(f"The script left {outcome.outlived} behind: what comes of that is not in the record.")
    if outcome.unwritten:
        warnings.append(f"{outcome.unwritten:,} line(s) are missing from the log: they could not be written.")
    warnings += collected.warnings
    if outcome.status == "failed" and prepared.tree is not None:
        workdir, said = lock.recipe.code.workdir, outcome.failure or ""
        warnings += missing_inputs(
            said, root=prepared.tree, workspace=workspace, workdir=workdir,
            outputs=[output.path for output in lock.recipe.declared_outputs],
        )  # fmt: skip
        lacks = missing_package(
            said, root=prepared.tree, environment=lock.recipe.environment, python=str(prepared.python)
        )
        warnings += [lacks] if lacks is not None else []
    declared_ones = {output.path for output in facts}
    left = _left_behind(recording, workspace, declared_ones, lock) if outcome.status == "finished" else ["(all)"]
    if left and outcome.status == "finished":
        warnings.append(
            f"Files were written that are not declared outputs ({', '.join(left[:5])}{'…' if len(left) > 5 else ''}); "
            f"they stay in {workspace}."
        )
    recording.left_behind = left
    used = {*collected.files, *noted.opened}
    strays = stray_files(used, lock, recording.manifest, workspace, python=prepared.python) if prepared.in_place else []
    warnings += [stray_warning(strays)] if strays else []
    machine = msgspec.structs.replace(
        record.machine,
        imported=[] if prepared.container else packages_behind(collected.imported, prepared.python),
        numeric=record.machine.numeric.updated(collected.numeric),
    )
    watched = lock.execution.inputs != "off"
    told = msgspec.structs.replace(
        record,
        status=outcome.status,
        ended=now(),
        changed_inputs={**record.changed_inputs, **{name: one.file for name, one in changed.items()}},
        machine=machine,
        code=record.code and _used(record.code, recording, collected.files, noted, strays, watched=watched),
        undeclared=undeclared,
        unused=unused,
        **read,
        refused=noted.refused,
        programs=programs_of(noted),
        initial=collected.initial,
        checkpoints=collected.checkpoints,
        metrics=collected.metrics,
        artifacts=sorted(collected.artifacts),
        outputs=facts,
        attempts=attempts,
        failure=outcome.failure,
        exit_code=outcome.exit_code,
    )
    told, otherwise = with_earlier(told, record) if record.attempts else (told, [])
    ended = msgspec.structs.replace(told, warnings=[*warnings, *otherwise])
    return recording.end(ended, collected=collected, outputs=outputs, workspace=workspace)


def _used(
    code: CodeFacts,
    recording: Recording,
    imported: set[str],
    noted: InputReport,
    strays: list[StrayFile],
    *,
    watched: bool,
) -> CodeFacts:
    """Return what of the code was used: modules that were imported, files that were opened, and what is not its own."""
    of_tree = [
        sorted(name for name in names if f"{CODE_PREFIX}{name}" in recording.manifest)
        for names in (imported, noted.opened)
    ]
    told = {"imported": of_tree[0], "opened": of_tree[1] if watched else None, "strays": strays}
    return msgspec.structs.replace(code, **told, dirty=code.dirty or bool(strays))


def _variables_read(asked: Asked, lock: RunLock, given: Given, home: Path) -> dict[str, Any]:
    """Return what a record says of the variables that the script read."""
    if lock.execution.inputs == "off":
        return {"variables": []}
    try:
        key = VariableKey.of(home)
    except Error:  # a full disk costs the digests, and not the run
        return {"variables": variables_read(asked, lock, given, key=None)}
    return {"variables": variables_read(asked, lock, given, key=key), "variables_key": key.id}


def _left_behind(recording: Recording, workspace: Path, outputs: set[str], lock: RunLock) -> list[str]:
    if recording.record.execution is not None and recording.record.execution.in_place:
        return []
    known = {entry.logical_key.removeprefix("code/") for entry in recording.manifest.below("code")} | outputs
    data = tuple(pin.path + "/" for pin in lock.data)
    return [name for name in written_files(workspace, known) if not f"{name}/".startswith(data)]
