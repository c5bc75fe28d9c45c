"""What the Lightning callback stores, refuses and brings back, in Lightning itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.load import load_checkpoint
from reprokit.checkpoint.reader import Checkpoint
from tests.conftest import Project
from tests.resume.trials import Case, Trial

pytest.importorskip("lightning", reason="the lightning extra is not installed")

_TINY = """\
import warnings
import lightning, torch
from torch.utils.data import DataLoader, IterableDataset
from reprokit.callbacks.lightning import PackageCheckpoint

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, _):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def fit(net=None, data=None, callbacks=(), package=None, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {**quiet, "enable_checkpointing": False, "max_epochs": 2, **options}
    trainer = lightning.Trainer(callbacks=[*callbacks, package or PackageCheckpoint()], **options)
    trainer.fit(net or Net(), DataLoader(torch.ones(6, 2), batch_size=2) if data is None else data)
    return trainer

def refusal(**options):
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(**options)
        print("WARNED", *(str(one.message) for one in caught if "reprokit" in str(one.message)))
    except (RuntimeError, TypeError, ValueError) as error:
        print("REFUSED", type(error).__name__, error)
"""

_REFUSALS = """
class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.ones(6, 2)

class Batches:
    def __iter__(self):
        yield from torch.ones(6, 2)

    def __len__(self):
        return 6

class Pulls(Net):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return super().training_step(batch, 0)

class Own(lightning.pytorch.strategies.SingleDeviceStrategy):
    pass

class Elsewhere(Net):
    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.ones(1)), *self.parameters()], lr=0.1)

swa = lightning.pytorch.callbacks.StochasticWeightAveraging(swa_lrs=1e-2)
refusal(data=DataLoader(Stream(), batch_size=2))
refusal(net=Pulls())
refusal(data=Batches())
refusal(strategy=Own("cpu"))
refusal(net=Elsewhere())
refusal(package=PackageCheckpoint(monitor="los"))
refusal(callbacks=[swa])
"""


def _run(base: Path, script: str, *, every: str = "1 epoch") -> Project:
    project = Project(base)
    project.write("train.py", _TINY + script)
    project.write(
        "recipe.yaml",
        f"name: t\ncode: {{entrypoint: train.py}}\ncheckpoints: {{package: t/model, every: {every}}}\n"
        "execution: {seed: 1, threads: 1, inputs: 'off'}\n",
    )
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    return project


@pytest.mark.slow
def test_killed_within_an_epoch_and_resumed_every_checkpoint_has_the_bits_of_a_run_left_alone(tmp_path: Path) -> None:
    case = Case("lightning", "lightning_epochs.py", 18, "2 steps", {"epochs": 2, "extras": True, "accumulate": 2})
    trial = Trial(case, tmp_path)
    assert {batch for _, _, batch in trial.whole} == {2, 4, 6, 8, None}
    trial.marker.write_text("16")
    assert trial.start().process.wait(300) != 0
    assert not trial.marker.exists()
    assert trial.record()["checkpoints"][-1]["batch"] == 6
    assert trial.digests(trial.start("resume", "latest").wait_for(0)) == trial.whole


def test_what_cannot_be_resumed_bit_for_bit_is_refused_by_name(tmp_path: Path) -> None:
    project = _run(tmp_path, _REFUSALS, every="2 steps")
    lines = [line.split(" ", 2)[-1] for line in project.reprokit("logs", "latest").stdout.splitlines()]
    said = [line for line in lines if line.startswith(("REFUSED", "WARNED"))]
    inside = "REFUSED RuntimeError reprokit: the recipe asks for checkpoints inside epochs, but "
    ends = ": this training can be resumed bit for bit at the ends of epochs alone. Give `every: 1 epoch`"
    assert said == [
        f"{inside}the training data has no length, and is read ahead{ends}",
        f"{inside}training_step takes its batches by itself, from an iterator{ends}",
        f"{inside}the training data comes from a Batches, which is not a DataLoader{ends}",
        "REFUSED RuntimeError reprokit: checkpoints under Lightning's Own are not supported, which may spread the "
        "state over processes; SingleDeviceStrategy and DDPStrategy are",
        "REFUSED TypeError reprokit: the optimiser's parameter 0, of shape [1], belongs to no model that is saved; "
        "pass all models: model={'net': net, 'loss': loss}",
        "REFUSED ValueError reprokit: the metric 'los' was not logged; there are: loss. Correct `monitor=`, or log it "
        "with `self.log`",
        "WARNED",
    ]
    (why,) = {entry["unresumable"][0] for entry in project.json("show", "latest")["checkpoints"]}
    assert why == "StochasticWeightAveraging makes its scheduler anew; use WeightAveraging"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    script = """
class Own(lightning.Callback):
    def state_dict(self):
        return {"seen": (1, float("nan"))}

class Described(Net):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("hidden", torch.arange(3), persistent=False)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

fit(Described(), callbacks=[Own()], accumulate_grad_batches=2)
"""
    project = _run(tmp_path_factory.mktemp("lightning"), script)
    return load_checkpoint("latest@last", registry=str(project.registry))


def test_model_optimiser_scheduler_loops_and_random_state_are_there(saved: Checkpoint) -> None:
    assert saved.tensor("hidden").tolist() == [0, 1, 2]
    assert "layer.weight.exp_avg" in saved.names("optimizer")
    state: dict[str, Any] = saved.state
    assert (state["epoch"], state["step"], state["position"]) == (1, 4, None)
    assert state["parts"]["scheduler.0"]["last_epoch"] == 2
    assert {"python", "numpy", "torch"} <= state["rng"].keys()
    assert state["lightning"]["progress"]["loops"]["epoch_progress"]["current"]["completed"] == 2


def test_what_callbacks_keep_is_kept(saved: Checkpoint) -> None:
    (own,) = saved.raw_state["lightning"]["hooks"]["callbacks"].values()
    assert own == {"seen": {"$tuple": [1, {"$float": "nan"}]}}


def test_the_modules_class_and_hyperparameters_are_told(saved: Checkpoint) -> None:
    assert saved.config == {"class": "__main__.Described", "hparams": {"width": 3}}
