"""What a process of a run does before its script: seeds, and the first call of vector math."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONG, ROOT, SCALE

BOOT = ROOT / "reprokit" / "client" / "boot"

TORCH = """\
said = []
float32, float64 = "float32", "float64"
class _Tensor:
    def __getattr__(self, name):
        return lambda: said.append(name) or self
def ones(size, dtype):
    said.append(f"{size} {dtype}")
    return _Tensor()
def manual_seed(seed):
    said.append(f"seed {seed}")
def set_deterministic_debug_mode(mode):
    said.append(mode)
class backends:
    class cudnn: pass
"""
ADAM = """\
import hashlib, torch
big = torch.ones(1 << 18)
for _ in range(3):
    big = big + big  # the pool of threads is there
weight = ((torch.arange(4096) * 3571 % 8191).to(torch.float32) / 8191 + 0.1).requires_grad_()
loss = torch.nn.functional.linear(weight.reshape(64, 64), torch.ones(32, 64)).square().sum()
loss.backward()
torch.optim.Adam([weight]).step()
print(hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest())
"""


def variables(*path: Path, determinism: str) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, [BOOT, *path])), "REPROKIT_RUN_ID": "r",
        "REPROKIT_SEED": "5", "REPROKIT_DETERMINISM": determinism, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("determinism", "before"),
    [
        ("seeded", ["seed 5", "1 float32", "sqrt", "exp", "1 float64", "sqrt", "exp"]),
        ("strict", ["seed 5", "1 float32", "sqrt", "exp", "1 float64", "sqrt", "exp", "error"]),
        ("off", []),
    ],
)
def test_one_thread_makes_the_first_call_of_vector_math(tmp_path: Path, determinism: str, before: list[str]) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.said)"],
        env=variables(tmp_path, determinism=determinism), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{before}\n", done.stderr


@LONG
def test_the_first_step_of_adam_has_the_same_bits_in_every_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        found = {
            subprocess.run(
                [sys.executable, "-c", ADAM], env=variables(determinism="strict"), capture_output=True, check=True
            ).stdout
            for _ in range(int(20 * SCALE))
        }
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(found) == 1
