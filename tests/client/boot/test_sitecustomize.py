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


RANKS = """\
import multiprocessing, os, random, subprocess, sys


def drawn(connection):
    connection.send(random.random())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(sys.argv[1][:0], random.random())
        sys.exit()
    if "LOOKS" in os.environ:  # for fonts, compilers, processors, as libraries do where they kept nothing yet
        subprocess.run(["true", "--list"])
        subprocess.run([sys.executable, "-c", "import json"])
        subprocess.run([sys.executable, "-m", "this"], stdout=subprocess.DEVNULL)
    for rank in range(2):
        print(subprocess.check_output([sys.executable, "-u", __file__, f"--port={40000 + rank}"], text=True).strip())
    context = multiprocessing.get_context("spawn")
    for rank in range(2):
        for _ in range(3 * ("LOOKS" in os.environ)):
            os.open(os.devnull, os.O_RDONLY)  # other numbers of descriptors
        here, there = context.Pipe()
        child = context.Process(target=drawn, args=(there,))
        child.start()
        print(here.recv())
        child.join()
    print(subprocess.check_output(["sh", "-c", f"{sys.executable} {__file__} x"], text=True).strip())
"""


def test_what_libraries_start_beside_them_gives_no_other_seeds_to_the_ranks_of_a_training(tmp_path: Path) -> None:
    told = []
    for folder, looks in (("one", {}), ("two", {"LOOKS": "1"})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ranks.py").write_text(RANKS)
        done = subprocess.run(
            [sys.executable, str(tmp_path / folder / "ranks.py")],
            env={**variables(determinism="seeded"), **looks}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.split())
    assert told[0] == told[1]
    assert len({*told[0]}) == len(told[0]) == 5, "no two draw the same"
