"""Mixing of rows with three generators at once, labels smoothed, rates by a lambda.

every: 3 steps
"""

import random

import numpy as np

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=rate, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        share, order = float(np.random.beta(0.4, 0.4)), torch.randperm(len(row))
        if random.random() < 0.7:
            row, target = share * row + (1 - share) * row[order], share * target + (1 - share) * target[order]
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        tick()
    ckpt.save(loss=loss)
