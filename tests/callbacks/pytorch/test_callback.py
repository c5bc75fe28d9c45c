"""What the PyTorch callback captures, seen through a real run."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.checkpoint.load import load_checkpoint
from tests.conftest import Project
from tests.resume.trials import Case, Trial

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

_SCRIPT = """\
import torch, reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.fixed = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("hidden", torch.arange(3), persistent=False)
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer("columns", torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("scalar", torch.tensor(True))

net = Net()
net.fixed.requires_grad_(False)
optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=scheduler)
for epoch in ckpt.epochs(2):
    net.head(net.embed(torch.tensor([1, 2]))).sum().backward()
    optimizer.step(); scheduler.step()
    ckpt.save(loss=torch.tensor(0.5), state={"pair": (1, float("nan")), "raw": b"x"})
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("torch"))
    made.write("train.py", _SCRIPT)
    made.write("recipe.yaml", "name: t\ncode: {entrypoint: train.py}\ncheckpoints: {package: t/model}\n")
    made.commit()
    made.reprokit("run", "recipe.yaml", "-q")
    return made


def test_tied_weights_are_stored_once_and_come_back_under_both_names(project: Project) -> None:
    checkpoint = load_checkpoint("latest@last", registry=str(project.registry))
    assert checkpoint.aliases() == {"head.weight": "embed.weight"}
    assert "head.weight" not in checkpoint.names()
    assert (checkpoint.tensors()["head.weight"] == checkpoint.tensor("embed.weight")).all()


def test_every_kind_of_tensor_comes_back_as_it_was(project: Project) -> None:
    checkpoint = load_checkpoint("latest@last", registry=str(project.registry))
    assert checkpoint.tensor("hidden").tolist() == [0, 1, 2]
    assert checkpoint.tensor("empty").shape == (0, 2)
    assert checkpoint.tensor("columns").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert checkpoint.tensor("scalar").shape == ()
    assert checkpoint.stored("fixed").dtype == "BF16"
    assert checkpoint.tensor("fixed").tolist() == [1.0, 1.0, 1.0]


def test_optimiser_scheduler_and_random_state_are_there(project: Project) -> None:
    checkpoint = load_checkpoint("latest@epoch=0", registry=str(project.registry))
    assert "embed.weight.exp_avg" in checkpoint.names("optimizer")
    state = checkpoint.state
    assert state["parts"]["scheduler.0"]["last_epoch"] == 1
    assert state["step"] == 1
    assert {"python", "numpy", "torch"} <= state["rng"].keys()
    assert checkpoint.raw_state["user"]["pair"] == {"$tuple": [1, {"$float": "nan"}]}
    assert state["user"]["pair"][0] == 1
    assert state["user"]["raw"] == b"x"


def test_the_safetensors_library_reads_every_shard(project: Project, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    project.reprokit("checkpoint", "get", "latest@last", str(tmp_path / "out"))
    shards = sorted((tmp_path / "out" / "model").glob("*.safetensors"))
    names = {name for shard in shards for name in safetensors.load_file(shard)}
    assert {"embed.weight", "fixed", "hidden", "columns"} <= names


def test_an_unchanged_frozen_shard_is_stored_once(project: Project) -> None:
    first = load_checkpoint("latest@epoch=0", registry=str(project.registry)).package
    second = load_checkpoint("latest@epoch=1", registry=str(project.registry)).package
    key = "model/frozen.safetensors"
    assert first.manifest[key].digest == second.manifest[key].digest


def test_what_a_killed_script_draws_from_a_dict_is_drawn_in_its_order(tmp_path: Path) -> None:
    """`torch_loop.py` weighs its loss by one of three lots, whose names are in no order of the alphabet."""
    trial = Trial(Case("torch", "torch_loop.py", 40, "3 steps"), tmp_path)
    run = trial.killed_at(25)["run_id"]
    trial.project.reprokit("resume", run, patience=300)
    assert trial.record()["status"] == "finished"
    assert trial.digests(trial.record()) == trial.whole
