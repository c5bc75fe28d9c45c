"""Spectral and weight norm, and an embedding with sparse gradients.

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
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

table = nn.Embedding(16, 8, sparse=True)
net = nn.Sequential(spectral_norm(nn.Linear(8, 8)), nn.Tanh(), weight_norm(nn.Linear(8, 1)))
sparse, dense = torch.optim.SparseAdam(list(table.parameters()), 1e-2), torch.optim.Adam(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(torch.randint(0, 16, (64,), generator=made), y), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(
    model={"table": table, "net": net}, optimizer={"sparse": sparse, "dense": dense}, loader=loader
)
for _ in ckpt.epochs(4):
    for rows, target in ckpt.batches(loader):
        sparse.zero_grad()
        dense.zero_grad()
        loss = F.mse_loss(net(table(rows)), target)
        loss.backward()
        sparse.step()
        dense.step()
        tick()
    ckpt.save(loss=loss)
