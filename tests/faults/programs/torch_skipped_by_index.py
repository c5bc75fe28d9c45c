"""A shuffling loader whose first batches are left out by their indices when the run goes on inside an epoch.

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
y = x.sum(1, keepdim=True)
net = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.1), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader, skip="index")
for _ in ckpt.epochs(3):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
