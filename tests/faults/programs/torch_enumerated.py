"""Counted with `enumerate`: every fourth batch is accumulated, every third looks at a fixed row in train mode.

every: 2 steps
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
net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(3):
    for i, (row, target) in enumerate(ckpt.batches(loader)):
        loss = F.mse_loss(net(row), target)
        loss.backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        if i % 3 == 0:
            net(x[:4])
        tick()
    ckpt.save(loss=loss)
