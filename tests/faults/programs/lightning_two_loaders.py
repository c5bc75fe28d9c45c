"""Two loaders as one, one of them read again where it is the shorter.

every: 1 epoch
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
from lightning.pytorch.utilities import CombinedLoader


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 1)

    def training_step(self, batch, _):
        (row, target), (bare,) = batch["labelled"], batch["bare"]
        loss = F.mse_loss(self.net(row), target) + self.net(bare).var()
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_):
        tick()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-2)


both = {
    "labelled": DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True),
    "bare": DataLoader(TensorDataset(x[:16]), batch_size=4, shuffle=True),
}
trainer = lightning.Trainer(max_epochs=4, callbacks=[PackageCheckpoint()], **QUIET)
trainer.fit(Net(), CombinedLoader(both, "max_size_cycle"))
