"""Accumulation that grows by a schedule, clipping, an average of the weights and early stopping.

every: 2 steps
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
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, GradientAccumulationScheduler


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def training_step(self, batch, _):
        loss = F.mse_loss(self.net(batch[0] + 0.1 * torch.randn_like(batch[0])), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_batch_end(self, *_):
        tick()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}


growing = [GradientAccumulationScheduler({0: 1, 2: 3}), EMAWeightAveraging(decay=0.9), EarlyStopping("val_loss")]
trainer = lightning.Trainer(max_epochs=4, gradient_clip_val=0.5, callbacks=[*growing, PackageCheckpoint()], **QUIET)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
trainer.fit(Net(), loader, DataLoader(TensorDataset(x, y), batch_size=16))
