"""A run that was killed anywhere, and resumed, ends with the bits of one that never was.

REPROKIT_TEST_SCALE=n draws n kill points in every case; without it, one in some of them.
"""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path

import pytest

from tests.resume.trials import Case, Trial

pytestmark = pytest.mark.slow

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_STEPS = "3 steps"
_HF = ("transformers", "accelerate")
_EXTRAS = {"extras": True}
_WORKERS = {**_EXTRAS, "workers": 2, "accumulate": 2}
_DDP = {**_EXTRAS, "devices": 2, "strategy": "ddp"}
_TORCHRUN = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

_TENSORFLOW, _TORCH = {"KERAS_BACKEND": "tensorflow"}, {"KERAS_BACKEND": "torch"}


def _keras(name: str, every: str, variables: dict[str, str], **params: object) -> Case:
    needs = ("keras", variables["KERAS_BACKEND"], *(["tensorflow"] if "tf.data" in str(params["data"]) else []))
    return Case(f"keras-{name}", "keras_fit.py", 52, every, params, variables, needs)


CASES = [
    Case("torch", "torch_loop.py", 40, _STEPS, needs=("torch",)),
    Case("torch-workers", "torch_loop.py", 40, _STEPS, {"workers": 2}, needs=("torch",)),
    Case("torch-persistent", "torch_loop.py", 40, _STEPS, {"workers": 2, "persistent": True}, needs=("torch",)),
    Case("torch-index", "torch_loop.py", 40, _STEPS, {"workers": 2, "skip": "index"}, needs=("torch",)),
    Case("torch-accumulate", "torch_loop.py", 40, "1 steps", {"accumulate": 4}, needs=("torch",)),
    Case("torch-global", "torch_loop.py", 40, _STEPS, {"own_generator": False}, needs=("torch",)),
    Case("torch-ddp", "torch_ddp.py", 15, "2 steps", {"victim": 0}, needs=("torch",), command=_TORCHRUN),
    Case("torch-ddp-1", "torch_ddp.py", 15, "2 steps", {"victim": 1}, needs=("torch",), command=_TORCHRUN),
    Case("lightning", "lightning_epochs.py", 36, _STEPS, _EXTRAS, needs=("lightning",)),
    Case("lightning-workers", "lightning_epochs.py", 36, "2 steps", _WORKERS, needs=("lightning",)),
    Case("lightning-epochs", "lightning_epochs.py", 36, needs=("lightning",)),
    Case("lightning-ddp", "lightning_epochs.py", 20, "2 steps", _DDP, needs=("lightning",)),
    Case("transformers", "transformers_steps.py", 27, _STEPS, _EXTRAS, needs=_HF),
    Case("transformers-workers", "transformers_steps.py", 27, "2 steps", _WORKERS, needs=_HF),
    Case("transformers-epochs", "transformers_steps.py", 27, needs=_HF),
    Case("transformers-ddp", "transformers_steps.py", 15, "2 steps", _EXTRAS, needs=_HF, command=_TORCHRUN),
    Case("torch-epochs", "torch_loop.py", 40, "1 epoch", {"batches": False, "workers": 2}, needs=("torch",)),
    _keras("torch-arrays", _STEPS, _TORCH, data="arrays", mixed=True),
    _keras("torch-batches", _STEPS, _TORCH, data="batches", native=True),
    _keras("torch-dataset", "1 epoch", _TORCH, data="dataset", workers=2, draws=False),
    _keras("torch-pipeline", _STEPS, _TORCH, data="tf.data"),
    _keras("torch-loader", _STEPS, _TORCH, data="loader", workers=2, built=False),
    _keras("tensorflow-arrays", _STEPS, _TENSORFLOW, data="arrays", built=False, mixed=True),
    _keras("tensorflow-batches", _STEPS, _TENSORFLOW, data="batches", native=True),
    _keras("tensorflow-dataset", "1 epoch", _TENSORFLOW, data="dataset"),
    _keras("tensorflow-augmented", "1 epoch", _TENSORFLOW, data="tf.data-augmented"),
    _keras("tensorflow-read", _STEPS, _TENSORFLOW, data="tf.data-read"),
    _keras("tensorflow-steps", "1 epoch", _TENSORFLOW, data="tf.data-steps"),
]
_EVERYDAY = {"torch-accumulate"}
_DRAWN = [case for case in CASES if _SCALE > 1 or case.name in _EVERYDAY]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in _DRAWN])
def test_killed_and_resumed_ends_with_the_bits_of_a_run_left_alone(case: Case, tmp_path: Path) -> None:
    for module in case.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: install reprokit's extra for it")
    trial = Trial(case, tmp_path)
    assert len(trial.whole) > 1
    draw = random.Random(f"{case.name} 1")
    for number in range(max(1, round(_SCALE))):
        how = trial.killed(draw)
        record = trial.resume_until_done(draw, kills=draw.choice([0, 0, 1]))
        assert trial.digests(record) == trial.whole, f"kill {number} ({how}) of {case.name}"
