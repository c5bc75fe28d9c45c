"""Where the processes of one training differ, none of its checkpoints is said to be one to go on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Project

TRAINING = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from reprokit.callbacks.pytorch import PackageCheckpoint

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
ckpt = PackageCheckpoint(model=model, optimizer=optimizer)
for epoch in ckpt.epochs(2):
    loss = model(torch.ones(3, 2)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    plateau.step(1.0 + epoch * (dist.get_rank() - 0.5))
    ckpt.save(loss=loss.item())
model = ckpt = None
dist.barrier()
dist.destroy_process_group()
"""


def test_equal_replicas_have_equal_marks_and_a_bit_or_a_rate_is_a_difference() -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    from reprokit.callbacks.pytorch.replicas import apart, mark_of

    def mark(weights: list[float], rate: float = 0.1) -> dict[str, object]:
        parameter = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float16))
        tensors = [("net.w", parameter), ("net.running_mean", torch.rand(3))]
        return mark_of(tensors, {"": torch.optim.SGD([parameter], lr=rate)})

    same = mark([1.0, 2.0, 3.0])
    assert apart([same, mark([1.0, 2.0, 3.0]), same]) == []
    (told,) = apart([same, same, mark([1.0, 2.0, 3.001953125])])
    assert told.startswith("the processes do not hold the same model: net.w of rank 2 differs; a checkpoint has one of")
    (told,) = apart([same, mark([1.0, 2.0, 3.5], rate=0.01)])
    assert told.startswith(
        "the processes do not hold the same optimiser: lr of group 0 (0.1 and 0.01) of rank 1 differs;"
    )
    assert "self.log(…, sync_dist=True)" in told


@pytest.mark.slow
def test_ranks_that_go_apart_are_named_when_they_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    project = Project(tmp_path)
    project.write("train.py", TRAINING)
    command = "[python, -m, torch.distributed.run, --standalone, --nproc-per-node=2, train.py]"
    project.write("recipe.yaml", f"name: ranks\ncode: {{command: {command}}}\nexecution: {{threads: 1}}\n")
    project.commit()
    run = project.json("run", "recipe.yaml")
    shown = " ".join(project.reprokit("show", run["run_id"]).stdout.split())
    assert "no resume" in shown and ": lr of group 0 (0.1 and 0.01" in shown
    assert [bool(one["unresumable"]) for one in run["checkpoints"]] == [False, True]
