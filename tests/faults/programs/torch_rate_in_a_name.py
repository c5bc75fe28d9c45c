"""A rate that is a name of the script, quartered where the validation gets no better, as in old language models.

loses: best, lr
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
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, loader=loader)
lr, best = 0.5, None
for _ in ckpt.epochs(6):
    for row, target in ckpt.batches(loader):
        net.zero_grad()
        loss = F.mse_loss(net(row), target)
        loss.backward()
        for weight in net.parameters():
            weight.data.add_(weight.grad, alpha=-lr)
        tick()
    now = F.mse_loss(net(x), y).item()
    if best is None or now < best:
        best = now
    else:
        lr /= 4.0
    ckpt.save(loss=now, lr=lr)
