"""An iterator of the batches that is held in a variable and asked for the next one.

every: 3 steps
refused: inside an epoch, batches are taken by next
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
net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 1))
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(4):
    batches = iter(ckpt.batches(loader))
    while (batch := next(batches, None)) is not None:
        row, target = batch
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
