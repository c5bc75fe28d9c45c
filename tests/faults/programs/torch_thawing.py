"""Layers that thaw one after the other, each given to the optimiser when its turn comes."""

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
for layer in (net[0], net[2]):
    layer.requires_grad_(False)
optimizer = torch.optim.Adam(net[4].parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for epoch in ckpt.epochs(5):
    if epoch in (1, 3):
        layer = net[2 if epoch == 1 else 0]
        layer.requires_grad_(True)
        optimizer.add_param_group({"params": layer.parameters(), "lr": 1e-3})
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
