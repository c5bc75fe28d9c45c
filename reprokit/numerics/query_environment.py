"""Ask an environment what numbers are computed with in it: start its Python as a run's script would be started.

What is asked for comes from a record, so only names and values of known forms are passed on; of its variables those
that decide numbers, and nothing by which a program would load code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from reprokit.client.facts.asked import ARRAYS, families
from reprokit.core.safe_json import load_json
from reprokit.core.scratch import temporary
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.numerics.machine import NUMERIC_VARIABLES, machine_facts
from reprokit.numerics.script_environ import child_variables, lay_bootstrap
from reprokit.schema.lock import RunLock
from reprokit.schema.machine import Numeric
from reprokit.schema.variables import why_refused

__all__ = ["ask"]

_BACKENDS = ("torch", "tensorflow", "jax", "numpy")
_MAX_ANSWER = 4 * 1024 * 1024


def ask(lock: RunLock, recorded: Numeric, *, python: Path, was: int | None, patience: float) -> Numeric:
    """Return the numeric class that the script of a lock would find in an environment.

    Args:
        recorded: The numeric class of the run: which libraries it had loaded, and what its script had set in them.
        python: The environment's interpreter.
        was: The threads that the run was given: where its libraries told others, the script itself had set them.
        patience: Seconds that each library may take to import and answer.
    Raises:
        EnvironmentMismatchError: The interpreter or a library does not start, or does not answer.
    """
    with temporary() as scratch:
        variables = child_variables(
            _numbers_alone(lock), inherited=os.environ, run_id="check", scratch=scratch,
            report=scratch / "inputs.txt",
            python_path=[lay_bootstrap(scratch)], locked=[], own=[], python=python,
        )  # fmt: skip
        variables["PATH"] = os.pathsep.join([str(python.parent), variables.get("PATH", os.defpath)])
        found: dict[str, Any] = {}
        kernels: dict[str, Any] = {}
        for question in _questions(recorded, was):
            told = dict(variables, REPROKIT_INPUTS="off")
            if (backend := recorded.libraries.get("keras", {}).get("backend")) in _BACKENDS:
                told["KERAS_BACKEND"] = str(backend)
            said = _answer(question, python=python, variables=told, scratch=scratch, patience=patience)
            found |= said.plain()
            kernels |= said.fingerprint
        machine = machine_facts(variables, python="").numeric.plain()
        return Numeric.told({**machine, **found, "fingerprint": kernels})


def _numbers_alone(lock: RunLock) -> RunLock:
    """Return a lock that sets no variable but those that decide numbers."""
    execution = lock.execution
    kept = {
        name: value
        for name, value in execution.variables.items()
        if name in NUMERIC_VARIABLES and why_refused(name, value) is None
    }
    plain = msgspec.structs.replace(execution, variables=kept, params="api")
    return msgspec.structs.replace(lock, execution=plain)


def _questions(recorded: Numeric, was: int | None) -> Iterator[dict[str, Any]]:
    """Yield a question for each family of libraries that the run had loaded; C's own functions are always asked for."""
    for family, asked in families().items():
        wanted: list[str] = []
        switches: dict[str, Any] = {}
        for framework in asked:
            told = recorded.libraries.get(framework.name, {})
            if told and (len(framework.numbers.asked) == 1 or told.get("backend") == family):
                wanted.append(framework.name)
            switches |= framework.numbers.switches(told, recorded.fingerprint, was)
        if wanted or family == ARRAYS:
            yield {"family": family, "libraries": wanted, "switches": switches}


def _answer(
    question: dict[str, Any], *, python: Path, variables: dict[str, str], scratch: Path, patience: float
) -> Numeric:
    asked, answered = scratch / "question.json", scratch / "answer.json"
    asked.write_text(json.dumps(question))
    answered.unlink(missing_ok=True)
    names = ", ".join(question["libraries"]) or "Python"
    with (scratch / "stderr").open("w+b") as errors:
        try:
            process = subprocess.Popen(
                [python, "-m", "reprokit.client.facts.asked", str(asked), str(answered)],
                cwd=scratch, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise EnvironmentMismatchError(f"{python} does not start: {error}.") from None
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            raise EnvironmentMismatchError(
                f"{python} did not answer within {patience:.0f} s, importing {names}.",
                hint="Import them there by hand to see where they hang.",
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code != 0 or not answered.is_file():
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            how = f"ended with {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise EnvironmentMismatchError(f"{python}, importing {names}, {how}: {lines[-1] if lines else 'no words'}")
    what = f"The answer of {python}"
    value = load_json(answered.read_bytes(), what=what, max_bytes=_MAX_ANSWER)
    if not isinstance(value, dict):
        raise DataMismatchError(f"{what} is no object.")
    try:
        return Numeric.told(value)
    except msgspec.ValidationError as error:
        raise DataMismatchError(f"{what} is malformed: {error}.") from None
