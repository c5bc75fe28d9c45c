"""Two loaders in step, one with labels and one without.

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
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
labelled = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
bare = DataLoader(TensorDataset(x + 1), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader={"labelled": labelled, "bare": bare})
for _ in ckpt.epochs(4):
    for (row, target), (other,) in zip(ckpt.batches(labelled), ckpt.batches(bare), strict=True):
        loss = F.mse_loss(net(row), target) + net(other).var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
