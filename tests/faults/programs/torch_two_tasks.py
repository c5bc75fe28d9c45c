"""Two tasks whose losses are weighed by parameters that are trained beside the net and belong to no module.

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
net, weighing = nn.Linear(8, 2), nn.Parameter(torch.zeros(2))
optimizer = torch.optim.Adam([{"params": net.parameters()}, {"params": [weighing], "lr": 1e-3}], 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(
    model={"net": net, "weighing": nn.ParameterDict({"of": weighing})}, optimizer=optimizer, loader=loader
)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        guess = net(row)
        losses = torch.stack([F.mse_loss(guess[:, :1], target), guess[:, 1].abs().mean()])
        loss = (losses * (-weighing).exp() + weighing).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
