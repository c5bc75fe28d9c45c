"""Reinforcement learning: a target net that follows every third turn, memories in `ckpt.state`, chance that fades."""

import random

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
net, target = nn.Linear(3, 2), nn.Linear(3, 2)
target.load_state_dict(net.state_dict())
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
ckpt = PackageCheckpoint(model={"net": net, "target": target}, optimizer=optimizer)
ckpt.state.update(memory=[], chance=0.9, place=[0.1, 0.0, 0.0])
for turn in ckpt.epochs(24):
    place = torch.tensor(ckpt.state["place"])
    action = random.randrange(2) if random.random() < ckpt.state["chance"] else int(net(place).argmax())
    after = place * 0.9 + torch.randn(3) * 0.1 + (0.1 if action else -0.1)
    ckpt.state["memory"] = [*ckpt.state["memory"][-30:], [place.tolist(), action, float(after[0]), after.tolist()]]
    ckpt.state["place"], ckpt.state["chance"] = after.tolist(), ckpt.state["chance"] * 0.95
    for before, done, reward, following in random.sample(ckpt.state["memory"], min(4, len(ckpt.state["memory"]))):
        with torch.no_grad():
            worth = reward + 0.9 * target(torch.tensor(following)).max()
        loss = F.mse_loss(net(torch.tensor(before))[done], worth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if turn % 3 == 2:
        target.load_state_dict(net.state_dict())
    tick()
    ckpt.save(loss=loss)
