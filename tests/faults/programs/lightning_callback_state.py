"""A callback that keeps a moving mean and turns the rate by it; it has a `state_dict`.

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


class Turning(lightning.Callback):
    def __init__(self):
        self.mean = 1.0

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.mean = 0.9 * self.mean + 0.1 * float(outputs["loss"])
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 1e-2 / (1 + self.mean)
        tick()


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def training_step(self, batch, _):
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


trainer = lightning.Trainer(max_epochs=4, callbacks=[Turning(), PackageCheckpoint()], **QUIET)
trainer.fit(Net(), DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True))
