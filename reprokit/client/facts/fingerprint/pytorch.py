"""Kernels of PyTorch, on the CPU and, where the script used one, on a CUDA device."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["cuda_kernels", "torch_kernels"]


def torch_kernels() -> dict[str, Callable[[], Any]]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return {}
    for dtype in (torch.float32, torch.float64):  # in one thread, as `client/boot` does in a run: it says why
        torch.ones(1, dtype=dtype, device="cpu").sqrt().exp()
    return _kernels(torch, "cpu")


def cuda_kernels() -> dict[str, Callable[[], Any]]:
    torch = sys.modules.get("torch")
    return _kernels(torch, "cuda") if torch is not None and torch.cuda.is_initialized() else {}


def _kernels(torch: Any, device: str) -> dict[str, Callable[[], Any]]:
    functional, f64, bf16 = torch.nn.functional, torch.float64, torch.bfloat16

    def make(*shape: int, factor: int = 2741, dtype: Any = torch.float32) -> Any:
        index = torch.arange(math.prod(shape), dtype=torch.int64, device=device)
        return ((index * factor % 8191 - 4095).to(f64) / 8191).to(dtype).reshape(shape)

    def out(*tensors: Any) -> list[Any]:  # as bytes: NumPy has no bfloat16
        return [tensor.detach().to("cpu").reshape(-1).view(torch.uint8).numpy() for tensor in tensors]

    def both_ways(function: Callable[..., Any], *leaves: Any) -> list[Any]:
        """Return what a function gives, and the gradient of every leaf."""
        with torch.enable_grad():
            leaves = tuple(leaf.requires_grad_() for leaf in leaves)
            result = function(*leaves)
            result.square().sum().backward()
        return out(result, *(leaf.grad for leaf in leaves))

    def adam() -> list[Any]:
        weight, grad = make(64, 64), make(64, 64, factor=5273)
        first, second = make(64, 64, factor=7129) * 0.1, make(64, 64, factor=3571).square()
        first.lerp_(grad, 0.1)
        second.mul_(0.999).addcmul_(grad, grad, value=0.001)
        return out(weight.addcdiv_(first, (second.sqrt() / math.sqrt(0.5)).add_(1e-8), value=-0.001))

    def conv2d(*shape: int, kernels: int, size: int = 3, groups: int = 1, stride: int = 1) -> list[Any]:
        weight = make(kernels, shape[1] // groups, size, size, factor=5273)
        convolve = partial(functional.conv2d, padding=size // 2, groups=groups, stride=stride)
        return both_ways(convolve, make(*shape), weight)

    def unary(name: str, dtype: Any) -> list[Any]:
        return out(getattr(torch, name)(make(4099, dtype=dtype) * 4))

    operands = make(64, 64), make(48, 64, factor=5273), make(48, factor=7129)
    target = torch.arange(64, device=device) % 10
    return {
        "linear": lambda: out(functional.linear(*operands)),
        "linear_backward": lambda: both_ways(functional.linear, *(operand.clone() for operand in operands)),
        "linear of 1024": lambda: both_ways(functional.linear, make(64, 1024), make(10, 1024, factor=5273)),
        "cross_entropy": lambda: both_ways(partial(functional.cross_entropy, target=target), make(64, 10)),
        "adam": adam,
        "matmul of 256 float32": lambda: out(make(256, 256) @ make(256, 256, factor=5273)),
        "matmul of 200 float64": lambda: out(make(200, 200, dtype=f64) @ make(200, 200, dtype=f64)),
        "matmul bfloat16": lambda: out(make(96, 96, dtype=bf16) @ make(96, 96, dtype=bf16)),
        "batched matmul": lambda: out(torch.bmm(make(8, 24, 40), make(8, 40, 24, factor=5273))),
        "conv2d small": lambda: conv2d(16, 1, 8, 8, kernels=8),
        "conv2d large": lambda: conv2d(4, 16, 28, 28, kernels=32),
        "conv2d of 1": lambda: conv2d(4, 32, 10, 10, kernels=48, size=1),
        "conv2d of 7": lambda: conv2d(2, 3, 32, 32, kernels=16, size=7, stride=2),
        "conv2d by channel": lambda: conv2d(4, 24, 12, 12, kernels=24, groups=24),
        "softmax": lambda: both_ways(partial(functional.softmax, dim=-1), make(64, 257)),
        "layer_norm": lambda: both_ways(partial(functional.layer_norm, normalized_shape=(256,)), make(64, 256)),
        "batch_norm": lambda: both_ways(
            lambda values: functional.batch_norm(values, None, None, training=True), make(16, 8, 12, 12)
        ),
        "attention": lambda: out(
            functional.scaled_dot_product_attention(*(make(2, 4, 32, 16, factor=f) for f in (2741, 5273, 7129)))
        ),
        "sum": lambda: out(make(100001).sum(), make(300, 400).sum(0), make(300, 400).mean(1), make(100001).norm()),
        **{f"{name} float32": partial(unary, name, torch.float32) for name in ("exp", "tanh", "sigmoid", "erf", "sin")},
        "exp float64": partial(unary, "exp", f64),
        "gelu": lambda: out(functional.gelu(make(4099) * 4)),
        "log": lambda: out(torch.log1p(make(4099).abs())),
    }
