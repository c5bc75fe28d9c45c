"""A callback that counts in an attribute of its own and has no `state_dict`: what it does hangs on its count.

every: 1 epoch
loses: Counting.seen
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


class Counting(lightning.Callback):
    def __init__(self):
        self.seen = 0

    def on_train_batch_end(self, trainer, *_):
        self.seen += 1
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 1e-2 / (1 + self.seen)
        tick()


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 1)

    def training_step(self, batch, _):
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-2)


trainer = lightning.Trainer(max_epochs=5, callbacks=[Counting(), PackageCheckpoint()], **QUIET)
trainer.fit(Net(), DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True))
