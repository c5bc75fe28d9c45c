"""What is done to an image before it is learned from; each step draws from PyTorch's global generator."""

import torch


def augmented(image: torch.Tensor, steps: list[str]) -> torch.Tensor:
    for step in steps:
        if step == "flip" and torch.rand(()) < 0.5:
            image = image.flip(-1)
        if step == "shift":
            image = image.roll(int(torch.randint(3, ())), -1)
        if step == "noise":
            image = image + torch.randn(image.shape, dtype=image.dtype) * 0.01
    return image
