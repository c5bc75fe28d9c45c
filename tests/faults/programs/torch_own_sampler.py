"""A sampler that keeps its own generator over the epochs and has no `state_dict`.

every: 1 epoch
loses: loader.sampler.own
"""

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


class Draws:
    def __init__(self):
        self.own = np.random.default_rng(5)

    def __len__(self):
        return 48

    def __iter__(self):
        return iter(self.own.permutation(64)[:48].tolist())


net = nn.Linear(8, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, sampler=Draws())
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(5):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
