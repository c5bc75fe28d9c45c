"""The callback's lines go where a script's text shows how it trains, and nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reprokit.execution.drafting.callback_lines import adopts, with_callback, with_callback_lines

LOOP = '''\
"""Train."""
from __future__ import annotations

import torch
from torch.optim.lr_scheduler import StepLR


def main(args):
    model = torch.nn.Linear(2, 1)
    train_loader = torch.utils.data.DataLoader([1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = StepLR(optimizer, 1)
    for epoch in range(1, args.epochs + 1):
        train(model)
        scheduler.step()  # é

    print("done")
'''


def added(source: str) -> list[str]:
    """The lines that the patch adds."""
    diff = with_callback(source.encode(), "train.py") or ""
    return [line[1:] for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]


def test_a_loop_over_epochs_is_surrounded() -> None:
    assert added(LOOP) == [
        "from reprokit.callbacks.pytorch import PackageCheckpoint",
        "    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, scheduler=scheduler, loader=train_loader)",
        "    for epoch in ckpt.epochs(args.epochs):",
        "        epoch += 1",
        "        ckpt.save()",
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("range(args.epochs)", ["    for epoch in ckpt.epochs(args.epochs):"]),
        ("range(0, args.epochs)", ["    for epoch in ckpt.epochs(args.epochs):"]),
        (
            "range(args.start, args.epochs)",
            ["    for epoch in ckpt.epochs((args.epochs) - (args.start)):", "        epoch += args.start"],
        ),
    ],
)
def test_whatever_the_loop_counts_it_counts_the_same(header: str, expected: list[str]) -> None:
    lines = added(LOOP.replace("range(1, args.epochs + 1)", header))
    assert lines[2:-1] == expected


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("import keras\nmodel.fit(x, y, epochs=3)\n", "model.fit(x, y, epochs=3, callbacks=[PackageCheckpoint()])"),
        ("import keras\nmodel.fit(x, epochs=(3),  # three\n)\n", "callbacks=[PackageCheckpoint()])"),
        (
            "import keras\nmodel.fit(x, epochs=3, callbacks=[stop])\n",
            "model.fit(x, epochs=3, callbacks=[PackageCheckpoint(), stop])",
        ),
        (
            "import keras\nmodel.fit(x, epochs=3, callbacks=mine)\n",
            "model.fit(x, epochs=3, callbacks=[*(mine), PackageCheckpoint()])",
        ),
        (
            "import keras\nmodel.fit(x, epochs=3, callbacks=None)",
            "model.fit(x, epochs=3, callbacks=[PackageCheckpoint()])",
        ),
        (
            "from lightning import Trainer as T\nT(max_epochs=2).fit(m)\n",
            "T(max_epochs=2, callbacks=[PackageCheckpoint()]).fit(m)",
        ),
        (
            "from transformers import Trainer\nTrainer(model=m).train()\n",
            "Trainer(model=m, callbacks=[PackageCheckpoint()]).train()",
        ),
        ("import xgboost as xgb\nxgb.train(p, d, 3)\n", "xgb.train(p, d, 3, callbacks=[PackageCheckpoint()])"),
        ("import lightgbm\nlightgbm.train(p, d)\n", "lightgbm.train(p, d, callbacks=[PackageCheckpoint()])"),
    ],
)
def test_frameworks_get_it_as_a_callback(script: str, line: str) -> None:
    assert added(script)[-1] == line


@pytest.mark.parametrize(
    "script",
    [
        "import json\nfor epoch in range(3): pass\n",  # no framework
        "import keras\nmodel.fit(x, epochs=3, **more)\n",  # `more` may have callbacks
        "import keras\na.fit(x, epochs=3)\nb.fit(x, epochs=3)\n",  # of two models, which?
        "from sklearn.svm import SVC\nSVC().fit(x, y)\n",
        "from pytorch_lightning import Trainer\nTrainer()\n",  # the callback is lightning's
        LOOP.replace("    optimizer =", "    if args.own:\n        optimizer ="),  # it is not there in every case
        LOOP.replace("    scheduler =", "    other_optimizer = torch.optim.SGD(other.parameters())\n    scheduler ="),
        LOOP.replace("range(1, args.epochs + 1)", "tqdm(range(args.epochs))"),
        LOOP.replace("range(1, args.epochs + 1)", "range(0, 10, 2)"),
        "import torch\nthis is no Python\n",
        LOOP.replace("\n", "\r\n"),
    ],
)
def test_what_the_text_does_not_show_gets_no_patch(script: str) -> None:
    assert with_callback(script.encode(), "train.py") is None


@pytest.mark.parametrize("source", [f"# coding: latin-1\n{LOOP}".encode("latin-1"), b"\xef\xbb\xbf" + LOOP.encode()])
def test_a_script_in_another_encoding_gets_no_patch(source: bytes) -> None:
    assert with_callback_lines(source) is None


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_diff_is_one_that_git_applies(tmp_path: Path, end: str) -> None:
    source = LOOP.rstrip("\n") + end
    (tmp_path / "train.py").write_text(source)
    diff = with_callback(source.encode(), "train.py")
    assert diff is not None
    subprocess.run(["git", "apply"], input=diff.encode(), cwd=tmp_path, check=True)
    assert (tmp_path / "train.py").read_bytes() == with_callback_lines(source.encode())


def test_a_script_that_has_it_is_known() -> None:
    edited = with_callback_lines(LOOP.encode())
    assert edited is not None
    assert adopts(edited) and not adopts(LOOP.encode())


def test_a_function_that_is_given_what_it_trains_is_patched_by_its_own_names() -> None:
    source = """\
import torch

def train(model, train_loader, num_epochs, optimizer, loss_fn):
    for epoch in range(num_epochs):
        step(model, train_loader)

torch_module = torch.nn.Linear(2, 2)
sgd = torch.optim.SGD(torch_module.parameters(), lr=0.1)
train(torch_module, [], 3, sgd, None)
"""
    edited = with_callback_lines(source.encode())
    assert edited is not None
    assert b"PackageCheckpoint(model=model, optimizer=optimizer, loader=train_loader)" in edited
    several = source.replace("loss_fn):", "loss_fn, optimizer_2):")
    assert with_callback_lines(several.encode()) is None  # whose parts are for the user to name


def test_a_fit_in_a_loop_gets_no_patch() -> None:
    source = b"import keras\nfor turn in range(3):\n    model.fit(x, y, epochs=1)\n"
    assert with_callback_lines(source) is None  # only the first training of a run can be resumed
