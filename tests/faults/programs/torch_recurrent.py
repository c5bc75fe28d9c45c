"""Truncated back-propagation: the hidden state goes from batch to batch, and through `ckpt.state`.

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
net, out = nn.LSTM(8, 6, num_layers=2, dropout=0.3), nn.Linear(6, 1)
optimizer = torch.optim.Adam([*net.parameters(), *out.parameters()], 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8)
ckpt = PackageCheckpoint(model={"net": net, "out": out}, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        held = ckpt.state.get("held")
        guess, now = net(row.unsqueeze(1), None if held is None else (held["h"], held["c"]))
        ckpt.state["held"] = {"h": now[0].detach(), "c": now[1].detach()}
        loss = F.mse_loss(out(guess.squeeze(1)), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.25)
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
