"""A Lightning training in which every part of the state matters: its loaders shuffle and augment with unkeyed random
numbers, its net has dropout and BatchNorm; with `extras` its learning rate, its validation and its end hang on metrics.
"""

import random

import lightning
import numpy as np
import torch
from killing import maybe_die
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric

import reprokit
from reprokit.callbacks.lightning import PackageCheckpoint

p = reprokit.params(epochs=4, workers=0, marker="", accumulate=1, extras=False, devices=1, strategy="auto")


class Data(Dataset):
    def __len__(self):
        return 36

    def __getitem__(self, i):
        drawn = torch.randn(6) * 0.1 + float(np.random.rand()) + random.random()
        return torch.full((6,), float(i % 5)) + drawn, i % 3


class Net(lightning.LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.save_hyperparameters()
        self.a, self.b = torch.nn.Linear(6, width), torch.nn.Linear(width, 3)
        self.norm, self.drop = torch.nn.BatchNorm1d(width), torch.nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long), persistent=False)
        self.mean = MeanMetric()
        self.losses = []

    def forward(self, x):
        self.seen += 1
        return self.b(self.drop(torch.relu(self.norm(self.a(x))))) * (1 + 1e-3 * self.seen)

    def training_step(self, batch, _):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self(x), y)
        self.mean.update(loss.detach())
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=p["devices"] > 1)
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.losses.append(loss.item())
        return loss

    def on_train_batch_end(self, *_):
        maybe_die(p["marker"])

    def validation_step(self, batch, _):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self(x) + torch.rand(()) * 0.1, y)
        self.log("val_loss", loss, sync_dist=p["devices"] > 1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["losses"] = list(self.losses)

    def on_load_checkpoint(self, checkpoint):
        self.losses = list(checkpoint["losses"])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        step = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches)
        if not p["extras"]:
            return [optimizer], [{"scheduler": step, "interval": "step"}]
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return [optimizer], [{"scheduler": plateau, "monitor": "train_loss_epoch"}]


callbacks = [PackageCheckpoint(monitor="val_loss")]
options = {}
if p["extras"]:
    callbacks.insert(0, lightning.pytorch.callbacks.EarlyStopping("val_loss", patience=3))
    callbacks.append(lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.9))
    options = {"val_check_interval": 4, "gradient_clip_val": 0.5}
trainer = lightning.Trainer(
    max_epochs=p["epochs"],
    callbacks=callbacks,
    accumulate_grad_batches=p["accumulate"],
    accelerator="cpu",
    devices=p["devices"],
    strategy=p["strategy"],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    **options,
)
train = DataLoader(
    Data(), batch_size=4, shuffle=True, num_workers=p["workers"], persistent_workers=p["workers"] > 0,
    generator=torch.Generator().manual_seed(3) if p["extras"] else None,
)  # fmt: skip
trainer.fit(Net(), train, DataLoader(Data(), batch_size=12, shuffle=True))
