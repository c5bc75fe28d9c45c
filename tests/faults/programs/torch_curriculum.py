"""A curriculum: every epoch has a loader of its own over more and more of the rows.

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
from torch.utils.data import Subset

net = nn.Linear(8, 1)
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer)
for epoch in ckpt.epochs(5):
    loader = DataLoader(Subset(TensorDataset(x, y), range(16 * min(epoch + 1, 4))), batch_size=8, shuffle=True)
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
