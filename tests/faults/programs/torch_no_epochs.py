"""No epochs: each turn draws a batch from a long text, the next one already while this one is learned.

every: 4 epochs
"""

import numpy as np

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
text = torch.randint(0, 20, (4000,), generator=made)
net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
optimizer = torch.optim.AdamW(net.parameters(), 1e-2, betas=(0.9, 0.95))
ckpt = PackageCheckpoint(model=net, optimizer=optimizer)


def draw():
    at = torch.randint(len(text) - 9, (4,))
    rows = torch.stack([text[i : i + 9] for i in at])
    return rows[:, :-1], rows[:, 1:]


for turn in ckpt.epochs(20):
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * min(1.0, (turn + 1) / 5) * (0.5 * (1 + np.cos(np.pi * turn / 20)))
    row, target = draw()
    loss = F.cross_entropy(net(row).flatten(0, 1), target.flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    tick()
    ckpt.save(loss=loss)
