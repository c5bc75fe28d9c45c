"""A function that trains a model, called for two models: what the first call made is in no checkpoint of the second.

every: 1 epoch
refused: it is of training 2 of the script, and what those before it made is not in it
"""

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(32, 8, generator=made)
y = x.sum(1, keepdim=True)


def train(rate: float) -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.1), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), rate)
    ckpt = PackageCheckpoint(model=net, optimizer=optimizer)
    for _ in ckpt.epochs(4):
        loss = F.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
        ckpt.save(loss=loss)


train(1e-2)
train(2e-2)
