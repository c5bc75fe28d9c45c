"""Ask an environment what numbers are computed with in it: start its Python as a run's script would be started.

What is asked for comes from a record, so only names and values of known forms are passed on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reprokit.client.facts.asked import FAMILIES
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.numerics.machine import machine_facts
from reprokit.numerics.script_environ import child_variables, lay_bootstrap
from reprokit.schema.lock import RunLock

__all__ = ["MOST_THREADS", "ask"]

_PRECISIONS = ("highest", "high", "medium")
_BACKENDS = ("torch", "tensorflow", "jax", "numpy")
MOST_THREADS = 1024
_MAX_ANSWER = 4 * 1024 * 1024


def ask(
    lock: RunLock, recorded: Mapping[str, Any], *, python: Path, was: int | None, patience: float
) -> dict[str, Any]:
    """Return the numeric class that the script of a lock would find in an environment.

    Args:
        recorded: The numeric class of the run: which libraries it had loaded, and what its script had set in them.
        python: The environment's interpreter.
        was: The threads that the run was given: where its libraries told others, the script itself had set them.
        patience: Seconds that each library may take to import and answer.
    Raises:
        EnvironmentMismatchError: The interpreter or a library does not start, or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="reprokit-") as name:
        scratch = Path(name)
        variables = child_variables(
            lock, inherited=os.environ, run_id="check", scratch=scratch, socket=scratch / "socket",
            context=scratch / "context.json", report=scratch / "inputs.txt",
            python_path=[lay_bootstrap(scratch)], readable=[],
        )  # fmt: skip
        variables["PATH"] = os.pathsep.join([str(python.parent), variables.get("PATH", os.defpath)])
        found: dict[str, Any] = {}
        kernels: dict[str, Any] = {}
        for question in _questions(recorded, was):
            told = dict(variables, REPROKIT_INPUTS="off")
            if (backend := _section(recorded, "keras").get("backend")) in _BACKENDS:
                told["KERAS_BACKEND"] = str(backend)
            said = _answer(question, python=python, variables=told, scratch=scratch, patience=patience)
            kernels |= said.pop("fingerprint", {})
            found |= said
        machine: dict[str, Any] = machine_facts(variables, python="")["numeric"]
        return {**machine, **found, "fingerprint": kernels}


def _questions(recorded: Mapping[str, Any], was: int | None) -> Iterator[dict[str, Any]]:
    """Yield a question for each family of libraries that the run had loaded; C's own functions are always asked for."""
    backend = _section(recorded, "keras").get("backend")
    for family, (libraries, _) in FAMILIES.items():
        wanted = [name for name in libraries if _section(recorded, name) and (name != "keras" or backend == family)]
        if wanted or family == "arrays":
            yield {"family": family, "libraries": wanted, "switches": _switches(family, recorded, was)}


def _switches(family: str, recorded: Mapping[str, Any], was: int | None) -> dict[str, Any]:
    """Return what the script itself had set: what the runner sets is set again anyway."""
    told = _section(recorded, family)
    found: dict[str, Any] = {}
    own = {"threads": was, "intra_op_threads": was, "inter_op_threads": 1, "interop_threads": None}
    for name, given in own.items():
        value = told.get(name)
        if type(value) is int and 1 <= value <= MOST_THREADS and value != given:
            found[name] = value
    if family == "torch":
        found |= {
            key: told[key] for key in ("deterministic", "mkldnn", "flush_denormal") if type(told.get(key)) is bool
        }
        if told.get("precision") in _PRECISIONS:
            found["precision"] = told["precision"]
        if _section(_section(recorded, "fingerprint"), "cuda") and all(
            _is_pair(told.get(key)) for key in ("tf32", "cudnn_switches")
        ):
            found |= {"cuda": True, "tf32": told["tf32"], "cudnn_switches": told["cudnn_switches"]}
    return found


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is bool for one in value)


def _section(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _answer(
    question: dict[str, Any], *, python: Path, variables: dict[str, str], scratch: Path, patience: float
) -> dict[str, Any]:
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
    return value
