"""The workload that tells whether two processes compute alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

CODE = """
import hashlib, importlib, json, pickle, random, sys
for name in sys.argv[1].split(","):
    importlib.import_module(name)
def drawn():
    states = [random.getstate()]
    if "numpy" in sys.modules:
        states.append([str(part) for part in sys.modules["numpy"].random.get_state()])
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        states += [torch.get_rng_state().tolist(), torch.is_grad_enabled(), str(torch.get_default_dtype())]
    if "tensorflow" in sys.modules:
        states.append(str(sys.modules["tensorflow"].random.get_global_generator().state.numpy()))
    return hashlib.sha256(pickle.dumps(states)).hexdigest()
before = drawn()
from reprokit.client.facts.fingerprint import fingerprint
from reprokit.client.facts.numeric import numeric_facts
first, facts, second = fingerprint(), numeric_facts(whole=True), fingerprint()
assert drawn() == before
print(json.dumps({"first": first, "second": second, "facts": facts, "loaded": sorted(sys.modules)}))
"""


def printed(libraries: str, **variables: str) -> dict[str, Any]:
    threads = {f"{name}_NUM_THREADS": "2" for name in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, libraries],
        env={**os.environ, "PYTHONPATH": str(ROOT), **threads, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["first"] == found["second"]
    return found


def test_it_imports_nothing_and_tries_what_is_loaded() -> None:
    found = printed("json")
    assert set(found["first"]) == {"version", "libm"} and found["facts"] == {}
    assert not {"numpy", "torch"} & set(found["loaded"])


def test_processes_agree_and_a_switch_shows_in_kernels_and_facts() -> None:
    one, two = printed("numpy,scipy.linalg,scipy.special"), printed("numpy,scipy.linalg,scipy.special")
    assert one["first"] == two["first"] and one["facts"] == two["facts"]
    assert len(one["first"]["numpy"]) == 28 and len(one["first"]["scipy"]) == 5
    core = {name: said["core"] for name, said in one["facts"]["blas"].items() if "core" in said}
    other = printed("numpy,scipy.linalg,scipy.special", OPENBLAS_CORETYPE="Nehalem")
    for name, value in core.items():
        assert value != "Nehalem" and other["facts"]["blas"][name]["core"] == "Nehalem"
    if core:
        assert other["first"]["numpy"]["matmul float64"] != one["first"]["numpy"]["matmul float64"]
    assert other["first"]["libm"] == one["first"]["libm"]


def test_pytorch_processes_agree_and_a_switch_shows() -> None:
    pytest.importorskip("torch")
    one, other = printed("torch"), printed("torch", ATEN_CPU_CAPABILITY="default")
    assert len(one["first"]["torch"]) == 27
    assert other["facts"]["torch"]["capability"] == "DEFAULT" != one["facts"]["torch"]["capability"]
    assert other["first"]["torch"]["adam"] != one["first"]["torch"]["adam"]


@pytest.mark.slow
def test_tensorflow_processes_agree() -> None:
    pytest.importorskip("tensorflow")
    one, two = printed("tensorflow"), printed("tensorflow")
    assert one["first"] == two["first"] and len(one["first"]["tensorflow"]) == 18


@pytest.mark.parametrize(("library", "kernels"), [("xgboost", 4), ("lightgbm", 3)])
def test_boosters_agree_and_tell_their_threads(library: str, kernels: int) -> None:
    pytest.importorskip(library)
    one, two = printed(library), printed(library)
    assert one["first"] == two["first"] and len(one["first"][library]) == kernels
    assert one["facts"][library]["threads"] == 2
