"""Half precision with a scaler, gradients accumulated over batches whose number the loader does not divide.

every: 2 steps
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
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(net.parameters(), 1e-2, amsgrad=True)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
loader = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scaler=scaler, loader=loader)
for _ in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(net(row).float(), target) / 3
        scaler.scale(loss).backward()
        if ckpt.batch % 3 == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        tick()
    ckpt.save(loss=loss)
