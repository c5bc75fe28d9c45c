"""Gradients are clipped over all parameters, also those of a head that no optimiser has and nobody zeroes.

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
body, head = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 1)
optimizer = torch.optim.Adam(body.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model={"body": body, "head": head}, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        optimizer.zero_grad()
        loss = F.mse_loss(head(body(row)), target)
        loss.backward()
        nn.utils.clip_grad_norm_([*body.parameters(), *head.parameters()], 1.0)
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
