"""Early stopping with the best weights kept and put back at the end, all of it in `ckpt.state`."""

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
net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), 0.3, momentum=0.9)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
ckpt.state.update(best=float("inf"), patience=2, weights={})
for _ in ckpt.epochs(8):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    now = F.mse_loss(net(x), y).item()
    if now < ckpt.state["best"]:
        ckpt.state.update(best=now, patience=2, weights=copy.deepcopy(net.state_dict()))
    else:
        ckpt.state["patience"] -= 1
    ckpt.save(val_loss=now)
    if ckpt.state["patience"] < 0:
        break
net.load_state_dict(ckpt.state["weights"])
print(F.mse_loss(net(x), y).item())
