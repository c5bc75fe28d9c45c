"""Every framework's callback says where its training is: epoch, batch and of how many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, lean

HEARD = """
import json
from reprokit.client import loop

heard = []
loop._BETWEEN_REPORTS = 0.0
loop.Loop._tell = lambda self, message: heard.append(message)


def told():
    print(json.dumps([[m["epoch"], m["batch"], m["total"]] for m in heard if m["type"] == "batch"]))
    heard.clear()
"""
TORCH = (
    HEARD
    + """
import torch, lightning, transformers
from torch.utils.data import DataLoader, TensorDataset
from reprokit.callbacks import lightning as of_lightning, pytorch as of_torch, transformers as of_transformers

data = TensorDataset(torch.randn(6, 2), torch.randn(6, 1))
loader = DataLoader(data, batch_size=2)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
ckpt = of_torch.PackageCheckpoint(model=model, optimizer=optimizer, loader=loader)
for epoch in ckpt.epochs(2):
    for x, y in ckpt.batches(loader):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    ckpt.save()
told()
ckpt = of_torch.PackageCheckpoint(model=model, optimizer=optimizer)
for epoch in ckpt.epochs(1):
    for _ in ckpt.batches(iter([1, 2])):
        pass
    ckpt.save()
told()


class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def training_step(self, batch, _):
        return (self.line(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


lightning.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                  callbacks=[of_lightning.PackageCheckpoint()]).fit(Line(), loader)
told()


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def forward(self, x, labels):
        return {"loss": (self.line(x) - labels).square().mean()}


rows = [{"x": x, "labels": y} for x, y in data]
arguments = transformers.TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=2, report_to=[],
                                           save_strategy="no", use_cpu=True, disable_tqdm=True)
transformers.Trainer(model=Loss(), args=arguments, train_dataset=rows,
                     callbacks=[of_transformers.PackageCheckpoint()]).train()
told()
"""
)
TENSORFLOW = (
    HEARD
    + """
import keras, numpy, tensorflow
from reprokit.callbacks import keras as of_keras, tensorflow as of_tensorflow

x, y = numpy.ones((6, 2), "float32"), numpy.ones((6, 1), "float32")
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("sgd", "mse")
keras.utils.set_random_seed(0)
model.fit(x, y, epochs=2, batch_size=2, verbose=0, callbacks=[of_keras.PackageCheckpoint(monitor="loss")])
told()
dataset = tensorflow.data.Dataset.from_tensor_slices((x, y)).batch(2)
line = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
ckpt = of_tensorflow.PackageCheckpoint(model=line, dataset=dataset)
for epoch in ckpt.epochs(2):
    for _ in ckpt.batches(dataset):
        pass
    ckpt.save()
told()
"""
)
_ALL = [[0, 1, 3], [0, 2, 3], [0, 3, 3], [1, 1, 3], [1, 2, 3], [1, 3, 3]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "script", "heard"),
    [(["torch", "lightning", "transformers"], TORCH, [_ALL, [[0, 1, None], [0, 2, None]], _ALL, _ALL]),
     (["keras", "tensorflow"], TENSORFLOW, [_ALL, _ALL])],
    ids=["torch", "tensorflow"],
)  # fmt: skip
def test_every_callback_says_where_it_is(tmp_path: Path, modules: list[str], script: str, heard: list[object]) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed")
    (tmp_path / "train.py").write_text(lean(script) if "keras" in modules else script)
    command = [sys.executable, "-W", "ignore", "train.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    for one, other in zip(said, heard, strict=True):
        assert [place for place in one if place[1] != 3] == [place for place in other if place[1] != 3]
        assert {tuple(place) for place in one} <= {tuple(place) for place in other}
