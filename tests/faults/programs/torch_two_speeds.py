"""Encoder and decoder, each with an optimiser and a scheduler of its own; the decoder steps at every second batch.

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
encoder, decoder = nn.Sequential(nn.Linear(8, 3), nn.Tanh()), nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 8))
first, second = torch.optim.Adam(encoder.parameters(), 1e-2), torch.optim.RMSprop(decoder.parameters(), 1e-2)
rates = [torch.optim.lr_scheduler.ExponentialLR(first, 0.9), torch.optim.lr_scheduler.StepLR(second, 2)]
loader = DataLoader(TensorDataset(x), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(
    model={"encoder": encoder, "decoder": decoder}, optimizer={"first": first, "second": second}, scheduler=rates,
    loader=loader,
)  # fmt: skip
for _ in ckpt.epochs(4):
    for (row,) in ckpt.batches(loader):
        loss = F.mse_loss(decoder(encoder(row)), row)
        loss.backward()
        first.step()
        first.zero_grad()
        if ckpt.batch % 2 == 0:
            second.step()
            second.zero_grad()
        tick()
    for rate in rates:
        rate.step()
    ckpt.save(loss=loss)
