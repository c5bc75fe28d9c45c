"""Kernels of NumPy and SciPy: their BLAS, LAPACK, and functions by vector instructions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["numpy_kernels", "scipy_kernels"]

Kernels = dict[str, Callable[[], Any]]


def make(np: Any, *shape: int, dtype: str = "float64", factor: int = 2741) -> Any:
    """Return values between -0.5 and 0.5 that fill the mantissa, so that the order of additions shows."""
    index = np.arange(np.prod(shape), dtype="int64")
    return ((index * factor % 8191 - 4095) / 8191).reshape(shape).astype(dtype)


def numpy_kernels() -> Kernels:
    np = sys.modules.get("numpy")
    if np is None or not hasattr(np, "linalg"):
        return {}
    return {f"{name} {dtype}": kernel for dtype in ("float32", "float64") for name, kernel in _numpy(np, dtype).items()}


def _numpy(np: Any, dtype: str) -> Kernels:
    a, b = make(np, 67, 131, dtype=dtype), make(np, 131, 93, dtype=dtype, factor=5273)
    big, flat = make(np, 300, 300, dtype=dtype, factor=7129), make(np, 100003, dtype=dtype, factor=6143)
    square = make(np, 48, 48, dtype=dtype, factor=3571) + np.eye(48, dtype=dtype) * 8

    def unary(name: str) -> Any:
        return [getattr(np, name)(flat * 4)]

    return {
        "matmul": lambda: [a @ b],
        "matmul of 300": lambda: [big @ big.T],
        "matmul of 1024": lambda: [flat[:65536].reshape(64, 1024) @ flat[:10240].reshape(1024, 10)],
        "matrix times vector": lambda: [a @ b[:, 5]],
        "dot": lambda: [np.dot(flat, flat)],
        "sum": lambda: [flat.sum(), big.sum(axis=0), big.mean(axis=1)],
        **{name: partial(unary, name) for name in ("exp", "sin", "tanh")},
        "log": lambda: [np.log(np.abs(flat) + 1)],
        "power": lambda: [(np.abs(flat) + 0.5) ** 2.7],
        "solve": lambda: [np.linalg.solve(square, b[:48])],
        "svd": lambda: [np.linalg.svd(a[:40, :60], compute_uv=False)],
        "eigh": lambda: [np.linalg.eigh(square + square.T)[0]],
    }


def scipy_kernels() -> Kernels:
    np, linalg, special = (sys.modules.get(name) for name in ("numpy", "scipy.linalg", "scipy.special"))
    blas = sys.modules.get("scipy.linalg.blas")
    if np is None or linalg is None or special is None or blas is None:
        return {}
    square = make(np, 64, 64, factor=3571)
    return {
        "gemm float64": lambda: [blas.dgemm(1.0, square, square)],
        "gemm float32": lambda: [blas.sgemm(1.0, square.astype("float32"), square.astype("float32"))],
        "qr float64": lambda: [linalg.qr(square)[1]],
        "logsumexp": lambda: [special.logsumexp(square, axis=1)],
        "expit": lambda: [special.expit(square * 4)],
    }
