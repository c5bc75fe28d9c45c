"""A datamodule that splits at random, and a module that keeps its own list of what it saw.

every: 3 steps
"""

import lightning
import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.lightning import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(48, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


class Rows(lightning.LightningDataModule):
    def setup(self, stage):
        self.train, self.rest = torch.utils.data.random_split(TensorDataset(x, y), [40, 8])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.rest, batch_size=8)


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.losses = nn.Linear(8, 1), []

    def training_step(self, batch, _):
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.losses.append(float(loss))
        return loss * (1 + min(self.losses))

    def on_train_epoch_end(self):
        self.log("mean", sum(self.losses) / len(self.losses))

    def validation_step(self, batch, _):
        self.log("val_loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_batch_end(self, *_):
        tick()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["losses"] = list(self.losses)

    def on_load_checkpoint(self, checkpoint):
        self.losses = list(checkpoint["losses"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


trainer = lightning.Trainer(max_epochs=4, callbacks=[PackageCheckpoint()], **QUIET)
trainer.fit(Net(), datamodule=Rows())
