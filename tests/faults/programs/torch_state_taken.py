"""A counter and a batch that is drawn ahead, taken from the callback's state at the head of each turn.

every: 1 epoch
"""

import torch
from ticking import tick
from torch import nn

from reprokit.callbacks.pytorch import PackageCheckpoint

net = nn.Linear(8, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer)
n, ahead = 0, torch.randn(16, 8)
for _ in ckpt.epochs(5):
    n, ahead = ckpt.state.get("n", n), ckpt.state.get("ahead", ahead)
    for _ in range(3):
        n += 1
        loss = (net(ahead) - n / 10).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ahead = torch.randn(16, 8)
        tick()
    ckpt.state["n"], ckpt.state["ahead"] = n, ahead
    ckpt.save(loss=loss)
