"""A stream without a length, shared out among two workers, shuffled through a buffer.

every: 3 steps
"""

import random

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
from torch.utils.data import IterableDataset, get_worker_info


class Stream(IterableDataset):
    def __iter__(self):
        mine = get_worker_info()
        held = []
        for i in range(mine.id, 64, mine.num_workers):
            held.append((x[i] + 0.1 * torch.randn(8), y[i]))
            if len(held) > 5:
                yield held.pop(random.randrange(len(held)))
        yield from held


net = nn.Linear(8, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(Stream(), batch_size=8, num_workers=2)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(3):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
