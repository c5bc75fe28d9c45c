"""L-BFGS over the whole set, which calls its closure as often as it likes."""

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4, history_size=5, line_search_fn="strong_wolfe")
ckpt = PackageCheckpoint(model=net, optimizer=optimizer)


def closure():
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    tick()
    return loss


for _ in ckpt.epochs(6):
    loss = optimizer.step(closure)
    ckpt.save(loss=loss)
