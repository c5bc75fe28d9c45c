"""SciPy."""

from __future__ import annotations

from reprokit.client.frameworks import Framework, Numbers, at

__all__ = ["FRAMEWORK"]

FRAMEWORK = Framework(
    name="scipy",
    rank=20,
    numbers=Numbers(
        asked=("arrays",),
        also=("scipy.linalg", "scipy.linalg.blas", "scipy.special"),
        kernels={"scipy": at("reprokit.client.facts.fingerprint.arrays:scipy_kernels")},
        below={"scipy": ("blas", "numpy")},
    ),
)
