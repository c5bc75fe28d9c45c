"""Batches of rows of like length, by a sampler that draws anew each epoch from a seed and the epoch.

every: 2 steps
"""

import random

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2


class Buckets:
    def __init__(self, lengths, size):
        self.lengths, self.size, self.epoch = lengths, size, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths) // self.size

    def __iter__(self):
        drawn = random.Random(self.epoch)
        order = sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], drawn.random()))
        groups = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        drawn.shuffle(groups)
        return iter(groups)


buckets = Buckets([i % 7 for i in range(64)], 8)
net = nn.Linear(8, 1)
optimizer = torch.optim.Adagrad(net.parameters(), 1e-1)
loader = DataLoader(TensorDataset(x, y), batch_sampler=buckets)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for epoch in ckpt.epochs(4):
    buckets.set_epoch(epoch)
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
