"""Warm restarts that are stepped with fractions of an epoch.

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
net = nn.Linear(8, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
rate = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=rate, loader=loader)
for epoch in ckpt.epochs(5):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step(epoch + ckpt.batch / len(loader))
        tick()
    ckpt.save(loss=loss)
