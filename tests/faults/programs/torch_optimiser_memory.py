"""An optimiser that keeps something which belongs to no parameter.

every: 3 steps
"""

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2


class Scaled(torch.optim.SGD):
    def step(self, closure=None):
        kept = self.state["all"]
        kept["n"] = kept.get("n", 0) + 1
        kept["norm"] = 0.9 * kept.get("norm", 1.0) + 0.1 * float(self.param_groups[0]["params"][0].grad.norm())
        for group in self.param_groups:
            group["lr"] = 1e-2 / (1 + kept["norm"])
        return super().step(closure)


net = nn.Linear(8, 1)
optimizer = Scaled(net.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
