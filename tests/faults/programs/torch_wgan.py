"""A critic that is trained at every batch with clipped weights, a generator at every third; noise kept to look at.

every: 2 steps
"""

import torch
from ticking import tick
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reprokit.callbacks.pytorch import PackageCheckpoint

made = torch.Generator().manual_seed(1)
x = torch.randn(64, 8, generator=made)
y = x.sum(1, keepdim=True) + x[:, :1] ** 2
generator, critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 1))
slow, fast = torch.optim.RMSprop(generator.parameters(), 1e-2), torch.optim.RMSprop(critic.parameters(), 1e-2)
fixed = torch.randn(8, 4)
loader = DataLoader(TensorDataset(x), batch_size=8, shuffle=True, drop_last=True)
ckpt = PackageCheckpoint(
    model={"generator": generator, "critic": critic}, optimizer={"slow": slow, "fast": fast}, loader=loader
)
for _ in ckpt.epochs(4):
    for (row,) in ckpt.batches(loader):
        fast.zero_grad()
        loss = critic(generator(torch.randn(8, 4)).detach()).mean() - critic(row).mean()
        loss.backward()
        fast.step()
        for weight in critic.parameters():
            weight.data.clamp_(-0.1, 0.1)
        if ckpt.batch % 3 == 0:
            slow.zero_grad()
            (-critic(generator(torch.randn(8, 4))).mean()).backward()
            slow.step()
        tick()
    ckpt.save(loss=loss, looks=generator(fixed).mean())
