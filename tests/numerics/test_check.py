"""What `env check` predicts, and what a run then shows.

The everyday run tries a few variants; `REPROKIT_TEST_SCALE=10` goes through all of them.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.cli.text.env_check import check_text
from reprokit.core.canonical_json import canonical
from reprokit.errors import DataMismatchError
from reprokit.numerics.check import check_lock, check_run
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.record import Record
from tests.conftest import SCRIPT, Project, context_of, put_run
from tests.environment.local.test_loose import Here
from tests.environment.making import install, needed_by_reprokit, repacked, venv, wheel
from tests.environment.test_realise import DEMO

ALL = int(float(os.environ.get("REPROKIT_TEST_SCALE", "1"))) >= 10

CONVOLUTIONS = """
import torch
from torch import nn
import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

index = torch.arange(320 * 64, dtype=torch.float64)
x = ((index * 2741 % 8191) / 8191).float().reshape(320, 1, 8, 8)
y = (x.sum((1, 2, 3)) * 7).long() % 10
model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU(),
                      nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
ckpt = PackageCheckpoint(model=model, optimizer=optimizer)
for epoch in ckpt.epochs(1):
    for some in torch.arange(320).split(64):
        loss = nn.functional.cross_entropy(model(x[some]), y[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ckpt.save(loss=loss.item(), accuracy=(model(x).argmax(1) == y).float().mean().item())
"""

REGRESSION = """
import torch
from torch import nn
import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

index = torch.arange(320 * 64, dtype=torch.float64)
x = ((index * 2741 % 8191) / 8191).float().reshape(320, 64)
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
ckpt = PackageCheckpoint(model=model, optimizer=optimizer)
for epoch in ckpt.epochs(1):
    for some in torch.arange(320).split(64):
        loss = nn.functional.mse_loss(model(x[some])[:, 0], x[some].mean(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ckpt.save(loss=loss.item())
"""

ESTIMATORS = """
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from reprokit.callbacks.sklearn import PackageCheckpoint

x = np.sin(np.arange(400 * 48) * 0.37).reshape(400, 48)
y = (x[:, :5].sum(1) > 0).astype(int)
PackageCheckpoint().save(make_pipeline(PCA(16, svd_solver="full"), LogisticRegression(max_iter=30)).fit(x, y))
"""

ARRAYS = """
import numpy as np
import reprokit

x = np.sin(np.arange(400 * 60) * 0.37).reshape(400, 60)
y, w = np.tanh(x @ np.linspace(-1, 1, 60)), np.zeros(60)
for epoch in range(3):
    error = np.tanh(x @ w) - y
    w = w - 0.01 * x.T @ (error * (1 - np.tanh(x @ w) ** 2)) * np.exp(-epoch / 10)
    reprokit.save_checkpoint({"w": w}, epoch=epoch, loss=float(error @ error))
"""

KERAS = """
import keras, numpy as np
from reprokit.callbacks.keras import PackageCheckpoint

x = ((np.arange(320 * 64) * 2741 % 8191) / 8191).astype("float32").reshape(320, 8, 8, 1)
y = (x.sum((1, 2, 3)) * 7).astype(int) % 10
layers = keras.layers
model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(),
                          layers.Dense(10, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x, y, epochs=1, batch_size=64, verbose=0, callbacks=[PackageCheckpoint()])
"""

# script, variables of the shell, --with, everyday
VARIANTS: list[tuple[str, dict[str, str], tuple[str, ...], bool]] = [
    ("torch", {"ATEN_CPU_CAPABILITY": "default"}, (), False),
    ("torch", {"OMP_NUM_THREADS": "1", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "99"}, (), True),
    ("torch", {}, (), False),
    ("torch", {"ATEN_CPU_CAPABILITY": "avx2"}, (), False),
    ("torch", {"ATEN_CPU_CAPABILITY": "avx512"}, (), False),
    ("torch", {"MKL_CBWR": "COMPATIBLE"}, (), False),
    ("torch", {"MKL_CBWR": "AVX2"}, (), False),
    ("torch", {"MKL_CBWR": "AUTO"}, (), False),
    ("torch", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, (), False),
    ("torch", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, (), False),
    ("torch", {"DNNL_MAX_CPU_ISA": "SSE41"}, (), False),
    ("torch", {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA"}, (), False),
    ("torch", {}, ("threads=1",), False),
    ("torch", {"LANG": "de_DE.UTF-8"}, (), False),
    ("regression", {"ATEN_CPU_CAPABILITY": "default"}, (), False),
    ("regression", {"ATEN_CPU_CAPABILITY": "avx2"}, (), False),
    ("regression", {"MKL_CBWR": "COMPATIBLE"}, (), False),
    ("regression", {}, ("threads=1",), False),
    ("arrays", {"OPENBLAS_CORETYPE": "Nehalem"}, (), True),
    ("arrays", {}, (), False),
    ("arrays", {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"}, (), False),
    ("arrays", {"MKL_CBWR": "COMPATIBLE"}, (), False),
    ("arrays", {}, ("threads=1",), False),
    ("sklearn", {}, (), False),
    ("sklearn", {"OPENBLAS_CORETYPE": "Haswell"}, (), False),
    ("sklearn", {}, ("threads=1",), False),
    ("keras", {}, (), False),
    ("keras", {"TF_ENABLE_ONEDNN_OPTS": "0"}, (), False),
    ("keras", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, (), False),
    ("keras", {}, ("threads=1",), False),
]
SCRIPTS = {"torch": CONVOLUTIONS, "regression": REGRESSION, "sklearn": ESTIMATORS, "arrays": ARRAYS, "keras": KERAS}


class Trained:
    """A project whose script was run once, with two threads."""

    def __init__(self, script: str, folder: Path) -> None:
        self.project = project = Project(folder)
        project.write("train.py", script)
        project.write(
            "recipe.yaml",
            "name: tiny\ncode: {entrypoint: train.py}\nexecution: {seed: 7, threads: 2}\n"
            "checkpoints: {package: t/model}\n",
        )
        project.commit()
        self.run = str(project.json("run", "recipe.yaml")["run_id"])

    def foretold(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Return the exit code of `env check`, and what it says."""
        return said(self.project, "env", "check", self.run, *options)

    def shown(self, *options: str) -> dict[str, Any]:
        """Return the verdict of a reproduction."""
        return said(self.project, "reproduce", self.run, *options)[1]


def said(project: Project, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*project.command(*arguments), "--json"],
        cwd=project.root, env=project.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 5, 7, 8), done.stderr
    return done.returncode, json.loads(done.stdout)


def bits_are_equal(verdict: dict[str, Any]) -> bool:
    """True if every tensor is; `--with` forbids the word BITWISE, and metrics may be within tolerance."""
    assert verdict["verdict"] != "INCONCLUSIVE"
    return verdict["first_divergence"] is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    @functools.cache
    def once(kind: str) -> Trained:
        return Trained(SCRIPTS[kind], tmp_path_factory.mktemp(kind))

    return once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "variables", "changes"),
    [
        pytest.param(kind, variables, changes, id="-".join([kind, *map("=".join, variables.items()), *changes]))
        for kind, variables, changes, everyday in VARIANTS
        if everyday or ALL
    ],
)
def test_the_prediction_agrees_with_what_a_run_shows(
    kind: str,
    variables: dict[str, str],
    changes: tuple[str, ...],
    trained: Callable[[str], Trained],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    pytest.importorskip({"arrays": "numpy", "regression": "torch"}.get(kind, kind))
    original = trained(kind)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = [part for change in changes for part in ("--with", change)]
    code, check = original.foretold(*options)
    verdict = original.shown(*options)
    word, equal = check["prediction"]["prediction"], bits_are_equal(verdict)
    record_property("agreement", f"{word} {'equal' if equal else 'DIVERGED'}")
    assert code == {"EQUAL": 0, "DIFFERENT": 7, "MAY-DIFFER": 8}[word]
    assert word != "EQUAL" or equal
    assert word != "DIFFERENT" or not equal
    told = " ".join([*check["prediction"]["reasons"], *check["prediction"]["notes"]])
    for name in (change.partition("=")[0] for change in changes):
        assert name in " ".join(verdict["relaxed"]), "an equal one says what was relaxed, too"
    if not equal:  # and it is named, before and after
        for name in [*variables, *(change.partition("=")[0] for change in changes)]:
            assert name in told, told
            assert name in " ".join([*verdict["causes"], *verdict["relaxed"]])
        assert verdict["causes"], "what differs has a cause, if only that it is unexplained"


def test_a_run_in_this_environment_is_equal_and_says_what_was_compared(project: Project) -> None:
    run = project.json("run", "recipe.yaml")
    code, check = said(project, "env", "check", run["run_id"])
    assert (code, check["packages"], check["machine"]) == (0, [], {})
    assert check["prediction"]["prediction"] == "EQUAL"
    assert check["prediction"]["reasons"] == [] and check["prediction"]["kernels"]["numpy"] == [28, 28]
    assert "numpy" in run["machine"]["imported"] and "scipy" not in run["machine"]["imported"]
    text = project.reprokit("env", "check", "latest").stdout
    assert "equal bits: libm 6 of 6, numpy 28 of 28" in text
    assert text.splitlines()[-1].split()[:2] == ["prediction", "EQUAL:"]
    assert project.json("env", "check", "latest", "--with", "threads=3", expect=8)["prediction"]["reasons"][0] == (
        "threads 1 → 3"
    )
    project.reprokit("env", "check", "latest", "--with", "param.rate=1", expect=2)
    project.reprokit("env", "check", "latest", "--with", "threads=0", expect=2)
    project.reprokit("env", "check", "nothing", expect=10)


def test_a_switch_of_the_shell_is_warned_of_unless_the_recipe_declares_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("TF_TOKEN_app_terraform_io", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run = project.json("run", "recipe.yaml")
    assert [text for text in run["warnings"] if "shell" in text] == [
        "The shell decides how numbers are computed: MKL_CBWR=COMPATIBLE. A reproduction has it only where its shell "
        "says so too; declare it under execution.variables."
    ]
    assert run["machine"]["numeric"]["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert run["machine"]["numeric"]["variables"]["OMP_NUM_THREADS"] == "1"
    assert "secret" not in json.dumps(run)
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", recipe.replace("threads: 1", "variables: {MKL_CBWR: COMPATIBLE}"))
    project.commit()
    (warning,) = [text for text in project.json("run", "recipe.yaml")["warnings"] if "shell" in text]
    assert warning.startswith("The run has ") and "OMP_NUM_THREADS=3" in warning


def test_runs_that_failed_or_were_killed_or_know_no_library_promise_nothing(project: Project) -> None:
    project.hook("raise SystemError('no')")
    project.reprokit("run", "recipe.yaml", expect=6)
    assert project.json("env", "check", "latest", expect=8)["prediction"]["prediction"] == "UNKNOWN"
    project.hook(f"os.kill(os.getpid(), {signal.SIGKILL.value})")
    project.reprokit("run", "recipe.yaml", expect=130)
    found = project.json("env", "check", "latest", expect=8)["prediction"]
    assert found["reasons"] == ["the run recorded no kernels: it failed, was stopped, or is of an older release"]
    project.write("train.py", "open('metrics.json', 'w').write('1')")
    project.commit()
    run = project.json("run", "recipe.yaml")
    assert set(run["machine"]["imported"]) <= {"setuptools"}  # which comes in by a .pth file
    assert project.json("env", "check", "latest")["prediction"]["kernels"] == {"libm": [6, 6]}


def test_a_record_with_facts_of_any_form_is_read(project: Project, tmp_path: Path) -> None:
    project.json("run", "recipe.yaml")
    registry = LocalRegistry(project.registry)
    context = context_of(tmp_path, registry)
    runs = RunStore(registry)
    run = runs.load("latest")
    lock = runs.lock(run)
    deep: Any = "x"
    for _ in range(40):
        deep = {"a": [deep]}
    for number, numeric in enumerate(
        [
            {},
            {"torch": {"threads": deep}, "numpy": {}, "variables": {"\x1b[2J": ""}},
            {"fingerprint": {"version": 2**70, "libm": {str(n): "0" for n in range(5000)}}, "keras": {"backend": {}}},
            {"variables": {"\x1b[2JMKL_" + "Z" * 9999: "x"}, "numpy": {"simd": deep}},
        ]
    ):
        machine = Machine(libc="\x1b[2J", numeric=Numeric.told(numeric))
        record = msgspec.structs.replace(run.record, run_id=f"20260101-00000{number}-abcdef", machine=machine)
        found = check_run(record, lock, context=context, exact=False)
        assert found.prediction is not None and found.prediction.prediction in ("UNKNOWN", "MAY-DIFFER")
        assert "\x1b" not in check_text(found) and len(check_text(found)) < 4000


@pytest.mark.parametrize(
    "machine",
    [
        {"numeric": "all"}, {"imported": {"numpy": 1}}, {"numeric": {"libraries": {"torch": 3}}}, {"cores": "two"},
        {"numeric": {"fingerprint": {"libm": {"exp": {}}}}}, {"numeric": {"variables": ["x"]}},
        {"numeric": {"extra": 1}},
    ],
)  # fmt: skip
def test_a_record_with_another_kind_of_machine_is_refused(project: Project, machine: dict[str, Any]) -> None:
    put_run(LocalRegistry(project.registry), "20260101-000000-abcdef")
    record = RunStore(LocalRegistry(project.registry)).load("latest").record
    forged = canonical({**record.plain(), "machine": machine})
    with pytest.raises(DataMismatchError, match=r"^It is malformed: .* - at `\$\.machine"):
        Record.decode(forged, what="It")


def test_a_lock_is_compared_package_by_package(project: Project, tmp_path: Path) -> None:
    project.reprokit("lock", "recipe.yaml")
    file = project.root / "recipe.lock.json"
    found = project.json("env", "check", str(file))
    assert (found["packages"], found["prediction"], found["run_id"]) == ([], None, None)
    edited = json.loads(file.read_text())
    (numpy,) = [package for package in edited["environment"]["pip"] if package["name"] == "numpy"]
    was, numpy["version"] = numpy["version"], "1.0"
    file.write_text(json.dumps(edited))
    assert f"numpy 1.0 → {was}" in project.reprokit("env", "check", str(file), expect=7).stdout


def test_an_image_is_not_asked_and_not_vouched_for(project: Project, tmp_path: Path) -> None:
    run = project.json("run", "recipe.yaml")
    registry = LocalRegistry(project.registry)
    stored = RunStore(registry).load(run["run_id"])
    lock = RunStore(registry).lock(stored)
    image = msgspec.structs.replace(lock.environment, container=f"sha256:{'0' * 64}")
    lock = msgspec.structs.replace(lock, environment=image)
    found = check_run(stored.record, lock, context=context_of(tmp_path, registry), exact=True)
    assert found.prediction is not None and (found.python, found.exit_code) == (None, 8)
    assert found.prediction.reasons == ["the run's environment is an image, which is not asked"]


@pytest.mark.slow
def test_packages_that_differ_are_named_and_count_if_the_run_imported_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = wheel(tmp_path, "idle", "1.0", {"idle.py": "x = 1\n"})
    python = venv(
        tmp_path / "venv",
        [*repacked(tmp_path / "wheels", needed_by_reprokit()), wheel(tmp_path, "demo", "1.0", DEMO), idle],
    )
    project = Project(tmp_path)
    project.build()
    project.python = str(python)
    project.write("train.py", SCRIPT.replace("HOOK", "import demo; weights *= demo.rate"))
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", f"{recipe}environment: {{vault: none}}\n")
    project.commit()
    run = project.json("run", "recipe.yaml")["run_id"]

    install(python, wheel(tmp_path, "idle", "2.0", {"idle.py": "x = 2\n"}))
    code, check = said(project, "env", "check", run)
    assert (code, check["prediction"]["notes"]) == (0, ["idle 1.0 → 2.0: not imported by the run"])
    assert bits_are_equal(said(project, "reproduce", run, "--with", "env=current")[1])

    module = next(python.parent.parent.glob("lib/python*/site-packages/demo.py"))
    module.write_text("rate = 0.3\n")
    code, check = said(project, "env", "check", run)
    assert (code, check["prediction"]["prediction"]) == (8, "MAY-DIFFER")
    assert check["prediction"]["reasons"] == ["demo 1.0: same version, other files: imported by the run"]
    assert not bits_are_equal(said(project, "reproduce", run, "--with", "env=current")[1])
    text = project.reprokit("env", "check", run, expect=8).stdout
    assert text.rstrip().endswith(f"`reproduce {run} --with env=current --until epoch=0` settles it")

    project.write("recipe.yaml", f"{recipe}environment: {{vault: all}}\n")
    project.commit()
    vaulted = project.json("run", "recipe.yaml")["run_id"]

    project.python = sys.executable  # a colleague's, with many other packages, and no index to ask
    monkeypatch.setenv("REPROKIT_OFFLINE", "1")
    code, check = said(project, "env", "check", run, "--env", "exact")
    assert (code, check["prediction"]["prediction"], check["python"]) == (5, "UNKNOWN", None)
    assert "cannot be made here" in check["prediction"]["reasons"][0]
    assert [change["name"] for change in check["packages"] if change["found"] is None] == ["demo", "idle"]
    text = project.reprokit("env", "check", run, "--env", "exact", expect=5).stdout
    assert "package      idle 1.0 → (absent)" in text and "prediction   UNKNOWN" in text
    code, check = said(project, "env", "check", vaulted, "--env", "exact")
    assert (code, check["prediction"]["prediction"], check["packages"]) == (0, "EQUAL", [])
    assert check["python"].startswith(str(tmp_path / "home-cache"))


def test_files_here_that_no_package_brought_are_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(tmp_path)
    locked = here.look().lock
    monkeypatch.setattr("reprokit.numerics.check.capture", lambda _: here.look())
    context = context_of(tmp_path, LocalRegistry(tmp_path / "registry"))
    assert check_lock(locked, context=context, exact=False).exit_code == 0
    file = here.write("helper.py", "")
    found = check_lock(locked, context=context, exact=False)
    assert found.exit_code == 7
    assert check_text(found).splitlines()[:3] == [
        f"  environment  DIFFERS  in 1 thing, lock {locked.hash[:8]}",
        f"  file         {file} is not what a package brought: remove it, or install its package again",
        f"  python       {sys.executable}",
    ]
    assert "package      site-packages/helper.py (of no package) is new" in check_text(found)
