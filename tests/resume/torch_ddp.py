"""Two processes that train one model with DDP; dropout and augmentation draw from each rank's own generators."""

import gc
import random

import numpy as np
import torch
import torch.distributed as dist
from killing import maybe_die
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint


def main() -> None:
    p = reprokit.params(marker="", epochs=3)
    dist.init_process_group("gloo")
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)
    )
    model = DistributedDataParallel(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.arange(240.0).reshape(40, 6).remainder(7)
    data = TensorDataset(x, torch.arange(40) % 3)
    sampler = DistributedSampler(data, seed=1)
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, loader=loader)
    for epoch in ckpt.epochs(p["epochs"]):
        sampler.set_epoch(epoch)
        for images, labels in ckpt.batches(loader):
            images = images + torch.randn(6) * 0.1 + float(np.random.rand()) + random.random()
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ckpt.state["mine"] = loss.item()
            if dist.get_rank() == p["victim"]:
                maybe_die(p["marker"])
        ckpt.save(loss=loss)
    ckpt = model = loss = None  # a model that outlives its group has gloo's threads abort one process of some 15
    gc.collect()
    dist.barrier()  # and so do those that end before the others are done
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
