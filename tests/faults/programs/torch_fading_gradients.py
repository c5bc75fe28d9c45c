"""Gradients that nobody zeroes: they fade, and every step adds to what is left.

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
net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        loss.backward()
        optimizer.step()
        for weight in net.parameters():
            weight.grad.mul_(0.5)
        tick()
    ckpt.save(loss=loss)
