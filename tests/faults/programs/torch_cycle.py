"""One endless iterator over the loader, made before the loop: an epoch is a number of steps.

every: 1 epoch
refused: an iterator over a DataLoader goes on from one epoch to the next
loses: batches
"""

import itertools

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
net = nn.Linear(8, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
batches = itertools.cycle(loader)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(5):
    for _ in range(6):
        row, target = next(batches)
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
