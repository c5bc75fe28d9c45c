"""A student learns from a frozen teacher that draws in its dropout, and from the labels by turns.

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
teacher = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 1)).requires_grad_(False)
student = nn.Linear(8, 1)
optimizer = torch.optim.RMSprop(student.parameters(), 1e-2, centered=True, momentum=0.5)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model={"teacher": teacher, "student": student}, optimizer=optimizer, loader=loader)
for epoch in ckpt.epochs(4):
    for row, target in ckpt.batches(loader):
        loss = F.mse_loss(student(row), teacher(row) if epoch % 2 else target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick()
    ckpt.save(loss=loss)
