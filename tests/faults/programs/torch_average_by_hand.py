"""An average of the weights that is kept by hand in a second model, and looked at after each epoch."""

import copy

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
average = copy.deepcopy(net).eval()
optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9, nesterov=True)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model={"net": net, "average": average}, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, now in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                kept.copy_(0.9 * kept + 0.1 * now if kept.is_floating_point() else now)
        tick()
    ckpt.save(loss=loss, averaged=F.mse_loss(average(x), y))
