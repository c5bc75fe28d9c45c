"""Stochastic weight averaging with its own rates, from the second epoch on; batch statistics are made anew at the end.

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
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
averaged = AveragedModel(net)
rates = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4), SWALR(optimizer, swa_lr=5e-3)]
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=rates, ema=averaged, loader=loader)
for epoch in ckpt.epochs(5):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    if epoch >= 2:
        averaged.update_parameters(net)
        rates[1].step()
    else:
        rates[0].step()
    ckpt.save(loss=loss)
update_bn(loader, averaged)
print(F.mse_loss(averaged.eval()(x), y).item())
