"""One loader read with `ckpt.batches`, and another one, endless, that is asked beside it.

every: 1 epoch
refused: an iterator over a DataLoader goes on from one epoch to the next
loses: bare
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


def endless(loader):
    while True:
        yield from loader


net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
labelled = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
bare = endless(DataLoader(TensorDataset(x + 1), batch_size=24, shuffle=True))
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=labelled)
for _ in ckpt.epochs(5):
    for row, target in ckpt.batches(labelled):
        (other,) = next(bare)
        loss = F.mse_loss(net(row), target) + net(other).var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
