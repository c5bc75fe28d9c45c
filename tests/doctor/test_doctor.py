"""A doctor on real training scripts: whole ones, ones that forgot something, and ones with a part taken out.

The everyday run forgets one object and leaves out one part; `REPROKIT_TEST_SCALE=10` goes through all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.doctor.doctor import _failure
from tests.conftest import ROOT, Project
from tests.faults.audit import SCALE

pytest.importorskip("torch", reason="the torch extra is not installed")
_ALL = pytest.mark.skipif(SCALE < 10, reason="trains in many processes; REPROKIT_TEST_SCALE=10")

_SCRIPT = """\
import random, time
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
import reprokit
from reprokit.doctor.doctor import _failure
from reprokit.callbacks.pytorch import PackageCheckpoint

class Data(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        x = torch.full((6,), i / 32) + random.random() * 0.1
        return x + torch.as_tensor(np.random.rand(6), dtype=torch.float32) * 0.1, i % 3

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn = torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16)
        self.drop, self.b = torch.nn.Dropout(0.3), torch.nn.Linear(16, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen += 1
        return self.b(self.drop(torch.relu(self.bn(self.a(x))))) / (1 + 0.01 * self.seen)

p = reprokit.params(epochs=3, case="", batches=True)
case = p["case"]
net = Net()
opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=1000)
scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
loader = DataLoader(Data(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
ema = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
noise = np.random.default_rng(4)
given = {"optimizer": opt, "scheduler": sched, "scaler": scaler, "loader": loader, "ema": ema,
         "generators": {"noise": noise}}
ckpt = PackageCheckpoint(model=net, **{name: one for name, one in given.items() if name != case})
total = 0.0
for epoch in ckpt.epochs(p["epochs"]):
    for x, y in ckpt.batches(loader) if p["batches"] else loader:
        x = x + float(noise.normal()) * 0.01 + (time.time() % 1 if case == "clock" else 0)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        sched.step()
        ema.update_parameters(net)
        total += loss.item()
        if case != "total":
            total = ckpt.state["total"] = ckpt.state.get("total", 0.0) + loss.item()
    ckpt.save(loss=loss)
"""
_RECIPE = """\
name: train
code: {entrypoint: train.py}
params: {epochs: 3, case: "", batches: true}
execution: {seed: 5, threads: 1, inputs: off}
checkpoints: {package: t/model, keep: 1}
"""
_TWELVE = {
    "parameters": "parameters",
    "buffers": "buffers",
    "non-persistent-buffers": "non-persistent buffers",
    "moments": "optimiser moments",
    "step": "optimiser step",
    "groups": "optimiser groups",
    "scheduler": "scheduler",
    "python-rng": "Python RNG",
    "numpy-rng": "NumPy RNG",
    "torch-rng": "torch RNG",
    "loader-generator": "loader generator",
    "scaler": "GradScaler",
}
_OTHERS = {"own-generator": "own generator", "ema": "EMA"}
_FORGOTTEN = [
    ("scheduler", "scheduler OneCycleLR (train.py `sched`): not in the checkpoint (last_epoch 5 → 0 and 2 more); "
     "pass it: scheduler=sched"),
    ("scaler", "GradScaler (train.py `scaler`): not in the checkpoint (scale 16.0 → 4.0 and 1 more); "
     "pass it: scaler=scaler"),
    ("loader", "loader generator (train.py `loader.generator`): not in the checkpoint; "
     "pass its loader: loader=loader"),
    ("generators", "own generator (train.py `noise`): not in the checkpoint; pass it: generators={'noise': noise}"),
    ("ema", "EMA of AveragedModel (train.py `ema`): not in the checkpoint (module.a.weight and 10 more); "
     "pass it: ema=ema"),
]  # fmt: skip


@pytest.fixture
def torch_project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.write("train.py", _SCRIPT)
    made.write("recipe.yaml", _RECIPE)
    return made  # not committed: a doctor takes files as they are


def _lost(diagnosis: dict[str, Any]) -> list[str]:
    return [_text(finding) for finding in diagnosis["findings"] if finding["certain"]]


def _text(finding: dict[str, Any]) -> str:
    where = f" {finding['where']}" if finding["where"] else ""
    return f"{finding['part']}{where}: {finding['problem']}" + (f"; {finding['hint']}" if finding["hint"] else "")


def test_what_was_forgotten_and_what_was_left_out_are_both_named(torch_project: Project) -> None:
    diagnosis = torch_project.json(
        "doctor", "recipe.yaml", "-p", "case=loader", "--omit=numpy-rng", expect=7, patience=400
    )
    assert _lost(diagnosis) == [dict(_FORGOTTEN)["loader"]]
    assert (diagnosis["result"], diagnosis["restored"]) == ("DIVERGED", "epoch 0, step 8"), "where it is shuffled anew"
    assert diagnosis["compared"] == "epoch 1, batch 2, step 10", "an epoch's end lies between"
    (omitted,) = diagnosis["omitted"]
    assert (omitted["part"], omitted["caught"], omitted["diverged"]) == ("NumPy RNG", True, True)
    assert [_text(finding) for finding in omitted["findings"]] == ["NumPy RNG: differs after restore"]


@_ALL
def test_each_of_the_twelve_parts_left_out_of_the_restore_is_noticed_by_its_name(torch_project: Project) -> None:
    chosen = _TWELVE | _OTHERS
    diagnosis = torch_project.json("doctor", "recipe.yaml", *(f"--omit={key}" for key in chosen), patience=1800)
    assert (diagnosis["result"], diagnosis["findings"]) == ("BITWISE", [])
    found = {one["part"]: {finding["part"] for finding in one["findings"]} for one in diagnosis["omitted"]}
    assert found == {part: {part} for part in chosen.values()}
    assert all(one["caught"] for one in diagnosis["omitted"])
    assert [one["part"] for one in diagnosis["omitted"] if not one["diverged"]] == []


@_ALL
@pytest.mark.parametrize(("case", "line"), _FORGOTTEN)
def test_an_object_that_the_callback_was_not_given_is_named_with_what_to_pass(
    torch_project: Project, case: str, line: str
) -> None:
    diagnosis = torch_project.json("doctor", "recipe.yaml", "-p", f"case={case}", expect=7)
    assert _lost(diagnosis) == [line]
    assert diagnosis["result"] == ("INCOMPLETE" if case in ("scaler", "ema") else "DIVERGED")


@_ALL
def test_a_sum_that_the_script_keeps_is_lost(torch_project: Project) -> None:
    told = ("-p", "case=total", "-p", "batches=false")
    text = torch_project.reprokit("doctor", "recipe.yaml", *told, expect=7).stdout
    assert "lost         own variable train.py `total`: differs at the next checkpoint: " in text
    assert "not checked  Going on in the middle of an epoch" in text
    assert text.splitlines()[-1].strip().startswith("result       INCOMPLETE")


_OWN = """\
import time
import torch
from reprokit.callbacks.pytorch import PackageCheckpoint

class Stopper:
    def __init__(self):
        self.bad = 0

    def __call__(self):
        self.bad += 1

def draws():
    n = 0
    while True:
        n += 1
        yield torch.randn(2)

def train(epochs=4):
    stopper, losses, stream, places = Stopper(), [], draws(), iter(range(100))
    seen = 0
    def count():
        nonlocal seen
        seen += 1
    net = torch.nn.Linear(2, 1)
    ckpt = PackageCheckpoint(model=net)
    ahead = next(stream)
    for epoch in ckpt.epochs(epochs):
        began = time.time()
        with torch.no_grad():
            net.weight += CARRIED
        ahead = next(stream)
        next(places)
        losses.append(epoch)
        stopper()
        count()
        ckpt.save(took=time.time() - began)

train()
"""


@pytest.mark.parametrize("carries", [True, pytest.param(False, marks=_ALL)])
def test_state_of_any_kind_that_a_script_keeps_is_named(torch_project: Project, carries: bool) -> None:
    torch_project.write("train.py", _OWN.replace("CARRIED", "ahead" if carries else "1"))
    diagnosis = torch_project.json("doctor", "recipe.yaml", expect=7, patience=400)
    assert diagnosis["result"] == ("DIVERGED" if carries else "INCOMPLETE")
    named = {finding["where"].partition("`")[2].rstrip("`") for finding in diagnosis["findings"] if finding["certain"]}
    kept = {"losses", "stopper.bad", "stream.n", "places", "seen"}
    assert named >= kept | ({"ahead"} if carries else set()), named
    assert not {"took", "began", "epoch"} & named
    assert "began" not in str(_lost(diagnosis)) and "metric" not in {
        finding["part"] for finding in diagnosis["findings"]
    }


@_ALL
def test_a_fit_of_keras_is_looked_into_and_what_it_has_not_touched_is_not_left_out(project: Project) -> None:
    pytest.importorskip("keras", reason="the keras extra is not installed")
    project.write("train.py", (ROOT / "recipes" / "digits_keras.py").read_text())
    diagnosis = project.json("doctor", "recipe.yaml", "-p", "epochs=2", "--omit=step", "--omit=python-rng")
    assert (diagnosis["result"], diagnosis["findings"]) == ("BITWISE", [])
    step, rng = diagnosis["omitted"]
    assert (step["part"], step["caught"], step["diverged"]) == ("optimiser step", True, True)
    assert (rng["part"], rng["caught"], rng["unchanged"]) == ("Python RNG", False, True)


@_ALL
def test_a_script_that_differs_from_itself_is_said_to(torch_project: Project) -> None:
    diagnosis = torch_project.json("doctor", "recipe.yaml", "-p", "case=clock", expect=7)
    (lost,) = _lost(diagnosis)
    assert lost.startswith("script: two trainings from the beginning differ: ")


def test_a_script_that_restores_nothing_cannot_resume_and_nothing_is_kept_of_it(project: Project) -> None:
    done = project.reprokit("doctor", "recipe.yaml", "-p", "epochs=1000", expect=8)
    assert "resume cannot work: the script saves checkpoints and restores none" in done.stdout
    assert "No run" in project.reprokit("show", "latest", expect=10).stderr
    assert not list((project.base / "home-cache").glob("doctor-*"))
    trees = [tree for tree in (project.base / "home-cache" / "trees").iterdir() if tree.is_dir()]
    assert len(trees) == 1  # the declared data; no checkpoint's


def test_scripts_that_save_nothing_or_fail_are_told_apart(project: Project) -> None:
    project.write("train.py", "print('no checkpoint here')")
    done = project.reprokit("doctor", "recipe.yaml", expect=8)
    assert "resume cannot work: the script saved no checkpoint" in done.stdout
    project.write("train.py", "raise ValueError('broken')")
    assert "ValueError: broken" in project.reprokit("doctor", "recipe.yaml", expect=6).stderr


def test_an_unknown_part_is_refused_before_anything_runs(project: Project) -> None:
    assert (
        "'everything' is not one of"
        in project.reprokit("doctor", "recipe.yaml", "--omit", "everything", expect=2).stderr
    )


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            "The script ended with exit code 1.\n  Traceback\nRuntimeError: reprokit: no run can be resumed: a; b",
            "refused: no run can be resumed: a; b",
        ),
        (
            "The script ended with exit code 1.\n  Traceback\nKeyError: 'a'",
            "the fresh process failed. The script ended with exit code 1. … KeyError: 'a'",
        ),
        ("", "the fresh process failed."),
    ],
)
def test_a_restore_that_fails_is_told_in_one_line(told: str, said: str) -> None:
    assert _failure(told) == said
