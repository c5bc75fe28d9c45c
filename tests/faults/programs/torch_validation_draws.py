"""Training and validation share the global generator; workers augment; what is best is told by `plateau`.

every: 3 steps
"""

import torch
from ticking import tick
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
from torch.utils.data import Dataset


class Augmented(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        return x[i] + 0.1 * torch.randn(8), y[i] * (1 + 0.1 * torch.rand(1))


net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
train = DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2)
held_out = DataLoader(Augmented(), batch_size=16, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=plateau, loader={"train": train, "held": held_out})
for _ in ckpt.epochs(3):
    net.train()
    for row, target in ckpt.batches(train):
        loss = F.mse_loss(net(row), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    net.eval()
    with torch.no_grad():
        told = sum(F.mse_loss(net(row + 0.1 * torch.randn(8)), target).item() for row, target in held_out)
    plateau.step(told)
    ckpt.save(val_loss=told)
