"""Asking an environment what numbers are computed with in it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reprokit.errors import EnvironmentMismatchError
from reprokit.numerics.query_environment import ask
from reprokit.schema.lock import CodeIdentity, EnvironmentLock, RunLock
from reprokit.schema.machine import Numeric
from reprokit.schema.recipe import Execution, from_plain
from tests.environment.making import venv

NUMPY = {"numpy": {"version": "2"}}


def lock(**execution: Any) -> RunLock:
    return RunLock(
        recipe=from_plain({"name": "t", "code": {"entrypoint": "t.py"}}),
        code=CodeIdentity(tree="0" * 40),
        environment=EnvironmentLock(python="3.11", implementation="CPython", platform="linux-x86_64"),
        data=[],
        params={},
        execution=Execution(**{"threads": 1, **execution}),
    )


def asked(recorded: dict[str, Any], python: Path = Path(sys.executable), **more: Any) -> dict[str, Any]:
    return ask(lock(**more), Numeric.told(recorded), python=python, was=1, patience=60.0).plain()


def place(python: Path, name: str, text: str) -> None:
    """Put a module into an environment."""
    (folder,) = (python.parent.parent / "lib").glob("python*/site-packages")
    (folder / f"{name}.py").write_text(text)


def test_it_has_the_threads_and_variables_that_the_runner_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    monkeypatch.setenv("MKL_VERBOSE", "0")
    found = asked(NUMPY, variables={"MKL_CBWR": "COMPATIBLE"})
    assert [said["threads"] for said in found["blas"].values()] == [1]
    assert found["variables"]["OPENBLAS_NUM_THREADS"] == "1"
    assert (found["variables"]["MKL_CBWR"], found["variables"]["MKL_VERBOSE"]) == ("COMPATIBLE", "0")
    assert len(found["fingerprint"]["numpy"]) == 28


def test_no_variable_of_a_record_loads_code_or_is_passed_on_beyond_numbers(tmp_path: Path) -> None:
    """A lock made by hand, past every check: its interpreter starts without what the variables name."""
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    evil = {"PYTHONPATH": str(tmp_path), "LD_PRELOAD": str(tmp_path / "x.so"), "OMP_TOOL_LIBRARIES": "x", "MARK": "x"}
    found = asked(NUMPY, variables={**evil, "MKL_CBWR": "COMPATIBLE"})
    assert not (tmp_path / "executed").exists()
    assert found["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert not set(evil) & set(found["variables"])


def test_what_the_script_had_set_is_set_again() -> None:
    pytest.importorskip("torch")
    told = {"threads": 2, "deterministic": False, "mkldnn": False, "precision": "medium", "flush_denormal": True}
    found = asked({"torch": told})["torch"]
    assert {key: found[key] for key in told} == told


def test_a_record_names_no_module_and_no_switch_of_its_own(tmp_path: Path) -> None:
    python = venv(tmp_path / "venv", [])
    for name in ("evil", "torch"):
        place(python, name, "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch(); __version__ = '1'")
    hostile = {
        "evil": {"version": "1"}, "torch": {}, "keras": {"backend": "os.system"}, "scipy": {},
        "fingerprint": {"cuda": 3},
    }  # fmt: skip
    found = asked(hostile, python)
    assert set(found["fingerprint"]) == {"version", "libm"}
    assert not list(tmp_path.rglob("*.ran"))


def test_a_library_that_crashes_is_named_with_its_last_words(tmp_path: Path) -> None:
    python = venv(tmp_path / "venv", [])
    place(python, "torch", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    with pytest.raises(
        EnvironmentMismatchError, match=r"importing torch, ended with exit code 1: ImportError: libcudart"
    ):
        asked({"torch": {"version": "1"}}, python)
    place(python, "torch", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(EnvironmentMismatchError, match=r"importing torch, ended with SIGSEGV"):
        asked({"torch": {"version": "1"}}, python)


def test_a_library_that_hangs_is_left_and_nothing_of_it_stays(tmp_path: Path) -> None:
    python = venv(tmp_path / "venv", [])
    mark = tmp_path / "alive"
    place(
        python,
        "torch",
        f"import subprocess, time; subprocess.Popen(['sh', '-c', 'sleep 3; touch {mark}']); time.sleep(99)",
    )
    with pytest.raises(EnvironmentMismatchError, match=r"did not answer within 1 s, importing torch"):
        ask(lock(), Numeric.told({"torch": {"version": "1"}}), python=python, was=1, patience=1.0)
    time.sleep(3)
    assert not mark.exists()


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMismatchError, match=r"nowhere/python does not start"):
        asked(NUMPY, tmp_path / "nowhere" / "python")
