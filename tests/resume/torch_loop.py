"""A PyTorch loop in which every part of the state matters: see `main`'s parameters for what a case switches on."""

import random

import numpy as np
import torch
from killing import maybe_die
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


class Noisy(Dataset):
    """Items that draw from three global generators, or from none."""

    def __init__(self, draws: bool) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x = torch.linspace(0, index, 6)
        if self.draws:
            x = x + torch.randn(6) * 0.1 + float(np.random.rand()) + random.random()
        return x, index % 3


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(6, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.drop = torch.nn.Dropout(0.3)
        self.b = torch.nn.Linear(16, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.b(self.drop(torch.relu(self.norm(self.a(x))))) * (1 + 1e-3 * self.seen)


def main() -> None:
    p = reprokit.params(
        marker="", epochs=4, workers=0, batches=True, skip="load", persistent=False, accumulate=1, own_generator=True
    )
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=1000)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    ema = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    noise = np.random.default_rng(11)
    loader = DataLoader(
        Noisy(draws=p["skip"] == "load"),
        batch_size=4,
        shuffle=True,
        num_workers=p["workers"],
        persistent_workers=p["persistent"],
        generator=torch.Generator().manual_seed(3) if p["own_generator"] else None,
    )
    ckpt = PackageCheckpoint(
        model=net,
        optimizer=optimizer,
        scheduler=[scheduler, plateau],
        loader=loader,
        scaler=scaler,
        ema=ema,
        generators={"noise": noise},
        skip=p["skip"],
    )
    ckpt.state["lots"] = {"zebra": 1.0, "apple": 0.5, "mango": 0.8}  # what is drawn from it hangs on its order
    for epoch in ckpt.epochs(p["epochs"]):
        net.train(epoch != 2)  # one epoch with frozen statistics: the flag is state
        for x, y in ckpt.batches(loader) if p["batches"] else loader:
            lot = random.choice(list(ckpt.state["lots"]))
            ckpt.state["lots"][lot] += 0.01
            loss = cross_entropy(net(x + float(noise.normal(scale=0.01))), y) * ckpt.state["lots"][lot]
            scaler.scale(loss).backward()
            if not p["batches"] or ckpt.batch % p["accumulate"] == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                scheduler.step()
                ema.update_parameters(net)
            ckpt.state["total"] = ckpt.state.get("total", 0.0) + loss.item()
            maybe_die(p["marker"])
        plateau.step(ckpt.state["total"])
        ckpt.save(loss=loss)


if __name__ == "__main__":
    main()
