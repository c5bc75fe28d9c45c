"""Rows drawn by weight with replacement, a warm-up before the cosine, both in one sequence.

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
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import WeightedRandomSampler

net = nn.Linear(8, 1)
optimizer = torch.optim.NAdam(net.parameters(), 1e-2)
rate = SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, 20)], [5])
loader = DataLoader(TensorDataset(x, y), batch_size=8, sampler=WeightedRandomSampler(y.abs().flatten().tolist(), 56))
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=rate, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        loss = F.huber_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        tick()
    ckpt.save(loss=loss)
