"""A trainer of another module, which calls back into the script: a global of that decides the rate.

every: 1 epoch
loses: seen
"""

import sys
import types

import torch
from ticking import tick
from torch import nn

from reprokit.callbacks.pytorch import PackageCheckpoint

seen = 0


def called(optimizer):
    global seen
    seen += 1
    optimizer.param_groups[0]["lr"] = 1e-2 / seen


LIB = """
def train(net, optimizer, ckpt, x, turn):
    for _ in ckpt.epochs(5):
        loss = net(x).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        turn(optimizer)
        ckpt.save(loss=loss)
"""
lib = types.ModuleType("lib")
exec(compile(LIB, "lib.py", "exec"), vars(lib))  # noqa: S102
sys.modules["lib"] = lib
net = nn.Linear(8, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
made = torch.Generator().manual_seed(1)


def turn(optimizer):
    called(optimizer)
    tick()


lib.train(net, optimizer, PackageCheckpoint(model=net, optimizer=optimizer), torch.randn(16, 8, generator=made), turn)
