"""Kernels of TensorFlow, on the CPU, one eager operation after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from reprokit.client.facts.fingerprint import arrays

__all__ = ["tensorflow_kernels"]


def tensorflow_kernels() -> dict[str, Callable[[], Any]]:
    tf, np = sys.modules.get("tensorflow"), sys.modules.get("numpy")
    if tf is None or np is None or not hasattr(tf, "raw_ops"):
        return {}

    def eager(kernel: Callable[[], Any]) -> Any:
        with tf.init_scope(), tf.device("/CPU:0"):
            return [tensor.numpy() for tensor in kernel()]

    return {name: partial(eager, kernel) for name, kernel in _kernels(tf, np).items()}


def _kernels(tf: Any, np: Any) -> dict[str, Callable[[], Any]]:
    def make(*shape: int, dtype: str = "float32", factor: int = 2741) -> Any:
        return tf.constant(arrays.make(np, *shape, dtype=dtype, factor=factor))

    def adam() -> list[Any]:
        weight, grad = make(64, 64), make(64, 64, factor=5273)
        first, second = make(64, 64, factor=7129) * 0.1, tf.square(make(64, 64, factor=3571))
        first += (grad - first) * 0.1
        second += (tf.square(grad) - second) * 0.001
        return [weight - first * 0.001 / (tf.sqrt(second) + 1e-7)]

    def unary(name: str, dtype: str) -> list[Any]:
        return [getattr(tf.math, name)(make(4099, dtype=dtype) * 4)]

    def backward(small: bool) -> list[Any]:
        image, weight, filters = ((16, 8, 8, 1), (3, 3, 1, 8), 8) if small else ((4, 14, 14, 8), (3, 3, 8, 16), 16)
        above = make(*image[:3], filters, factor=7129)
        return [
            tf.nn.conv2d(make(*image), make(*weight, factor=5273), 1, "SAME"),
            tf.raw_ops.Conv2DBackpropFilter(
                input=make(*image), filter_sizes=weight, out_backprop=above, strides=[1] * 4, padding="SAME"
            ),
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=image, filter=make(*weight), out_backprop=above, strides=[1] * 4, padding="SAME"
            ),
        ]

    labels = np.arange(64, dtype="int32") % 10
    return {
        "linear": lambda: [make(64, 64) @ make(64, 48, factor=5273) + make(48, factor=7129)],
        "linear_backward": lambda: [
            tf.matmul(make(64, 64), make(64, 48, factor=5273), transpose_a=True),
            tf.matmul(make(64, 48, factor=5273), make(64, 48), transpose_b=True),
            tf.reduce_sum(make(64, 48, factor=5273), 0),
        ],
        "linear of 1024": lambda: [
            make(64, 1024) @ make(1024, 10, factor=5273),
            tf.matmul(make(64, 10), make(64, 1024, factor=5273), transpose_a=True),
            tf.matmul(make(64, 10), make(1024, 10, factor=5273), transpose_b=True),
        ],
        "cross_entropy": lambda: list(
            tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=make(64, 10), labels=labels)
        ),
        "adam": adam,
        "matmul of 256 float32": lambda: [make(256, 256) @ make(256, 256, factor=5273)],
        "matmul of 200 float64": lambda: [make(200, 200, dtype="float64") @ make(200, 200, dtype="float64")],
        "conv2d small": partial(backward, True),
        "conv2d large": partial(backward, False),
        "softmax": lambda: [tf.nn.softmax(make(64, 257))],
        "batch_norm": lambda: list(tf.nn.moments(make(16, 12, 12, 8), [0, 1, 2])),
        "sum": lambda: [tf.reduce_sum(make(100001)), tf.reduce_mean(make(300, 400), 1), tf.norm(make(100001))],
        **{f"{name} float32": partial(unary, name, "float32") for name in ("exp", "tanh", "sigmoid", "erf", "sin")},
        "exp float64": partial(unary, "exp", "float64"),
    }
