"""A GAN that leaves the discriminator the gradients of the generator's loss, as many do.

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
fakes, judge = (
    nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8)),
    nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)),
)
of_fakes, of_judge = torch.optim.Adam(fakes.parameters(), 1e-2), torch.optim.Adam(judge.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x), batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(
    model={"fakes": fakes, "judge": judge}, optimizer={"fakes": of_fakes, "judge": of_judge}, loader=loader
)
right, wrong = torch.ones(8, 1), torch.zeros(8, 1)
for _ in ckpt.epochs(4):
    for (row,) in ckpt.batches(loader):
        fake = fakes(torch.randn(8, 4))
        told = F.binary_cross_entropy_with_logits
        (told(judge(row), right) + told(judge(fake.detach()), wrong)).backward()
        of_judge.step()
        of_judge.zero_grad()
        loss = told(judge(fake), right)
        loss.backward()
        of_fakes.step()
        of_fakes.zero_grad()
        tick()
    ckpt.save(loss=loss)
