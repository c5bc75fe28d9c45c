"""NumPy, and checkpoints that a script makes of arrays by itself."""

from __future__ import annotations

import sys
from typing import Any

from reprokit.client.frameworks import Framework, Numbers, Stored, Variables, at

__all__ = ["FRAMEWORK"]


def _facts(_module: Any, whole: bool) -> dict[str, Any]:
    core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get("numpy.core._multiarray_umath")
    features, compiled = getattr(core, "__cpu_features__", {}), getattr(core, "__cpu_dispatch__", [])
    return {"simd": [name for name in compiled if features.get(name)]} if whole else {}


FRAMEWORK = Framework(
    name="numpy",
    rank=10,
    numbers=Numbers(
        asked=("arrays",),
        facts=_facts,
        kernels={"numpy": at("reprokit.client.facts.fingerprint.arrays:numpy_kernels")},
        below={"numpy": ("blas",)},
        trained_by=("numpy",),
    ),
    variables=Variables(
        numeric=("NPY_DISABLE_CPU_FEATURES", "NPY_DISABLE_SVML", "NPY_ENABLE_CPU_FEATURES", "NPY_PROMOTION_STATE"),
        read=("NPY_",),
        effects={
            "OPENBLAS_CORETYPE": "blas",
            "NPY_DISABLE_CPU_FEATURES": "numpy.simd",
            "NPY_ENABLE_CPU_FEATURES": "numpy.simd",
        },
    ),
    stored=Stored(generators={"Python RNG": "python", "NumPy RNG": "numpy"}),
)
