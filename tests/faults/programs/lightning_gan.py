"""A GAN in Lightning, optimised by hand; the gradients of one loss are left in the other net.

every: 4 steps
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


class Gan(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.fakes, self.judge = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def configure_optimizers(self):
        return torch.optim.Adam(self.fakes.parameters(), 1e-2), torch.optim.Adam(self.judge.parameters(), 1e-2)

    def training_step(self, batch, _):
        first, second = self.optimizers()
        fake = self.fakes(torch.randn(len(batch[0]), 4))
        loss = -self.judge(fake).mean()
        self.manual_backward(loss)
        first.step()
        first.zero_grad()
        told = F.softplus(-self.judge(batch[0])).mean() + F.softplus(self.judge(fake.detach())).mean()
        self.manual_backward(told)
        second.step()
        second.zero_grad()
        self.log("told", told)

    def on_train_batch_end(self, *_):
        tick()


trainer = lightning.Trainer(max_epochs=4, callbacks=[PackageCheckpoint()], **QUIET)
trainer.fit(Gan(), DataLoader(TensorDataset(x), batch_size=8, shuffle=True))
