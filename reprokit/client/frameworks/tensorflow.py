"""TensorFlow."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from reprokit.client.frameworks import Framework, Numbers, Stored, Variables, at, valid

__all__ = ["FRAMEWORK"]


def _facts(tensorflow: Any, whole: bool) -> dict[str, Any]:
    if not whole or not hasattr(tensorflow, "config"):
        return {}
    found: dict[str, Any] = {
        "intra_op_threads": tensorflow.config.threading.get_intra_op_parallelism_threads()
        or _number(os.environ.get("TF_NUM_INTRAOP_THREADS")),
        "inter_op_threads": tensorflow.config.threading.get_inter_op_parallelism_threads()
        or _number(os.environ.get("TF_NUM_INTEROP_THREADS")),
    }
    port = sys.modules.get("tensorflow.python.util._pywrap_util_port")
    if port is not None and hasattr(port, "IsMklEnabled"):
        found["onednn"] = bool(port.IsMklEnabled())
    config = sys.modules.get("tensorflow.python.framework.config")
    if config is not None and hasattr(config, "is_op_determinism_enabled"):
        found["deterministic"] = bool(config.is_op_determinism_enabled())
    build = tensorflow.sysconfig.get_build_info()
    found["build"] = {key: str(build[key]) for key in sorted(build) if key.endswith("_version")}
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _computed() -> bool:
    """False for a TensorFlow that computed nothing: it is not started up for it."""
    eager = sys.modules.get("tensorflow.python.eager.context")
    return bool(getattr(getattr(eager, "_context", None), "_initialized", False))


def _switches(told: Mapping[str, Any], _kernels: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    return valid(told, {"intra_op_threads": threads, "inter_op_threads": 1})


def _set_switches(tensorflow: Any, switches: Mapping[str, Any]) -> None:
    if "intra_op_threads" in switches:
        tensorflow.config.threading.set_intra_op_parallelism_threads(switches["intra_op_threads"])
    if "inter_op_threads" in switches:
        tensorflow.config.threading.set_inter_op_parallelism_threads(switches["inter_op_threads"])


FRAMEWORK = Framework(
    name="tensorflow",
    rank=70,
    extra="tensorflow",
    numbers=Numbers(
        asked=("tensorflow",),
        facts=_facts,
        switches=_switches,
        set_switches=_set_switches,
        kernels={"tensorflow": at("reprokit.client.facts.fingerprint.tensorflow:tensorflow_kernels")},
        computed=_computed,
        trained_by=("tensorflow",),
    ),
    variables=Variables(
        numeric=(
            "TF_CUBLAS_WORKSPACE_LIMIT_IN_MB",
            "TF_CUDNN_DETERMINISTIC",
            "TF_CUDNN_RESET_RND_GEN_STATE",
            "TF_CUDNN_USE_AUTOTUNE",
            "TF_CUDNN_USE_FRONTEND",
            "TF_CUDNN_USE_RUNTIME_FUSION",
            "TF_CUDNN_WORKSPACE_LIMIT_IN_MB",
            "TF_DETERMINISTIC_OPS",
            "TF_DISABLE_MKL",
            "TF_DISABLE_SEGMENT_REDUCTION_OP_DETERMINISM_EXCEPTIONS",
            "TF_ENABLE_AUTO_MIXED_PRECISION",
            "TF_ENABLE_CUBLAS_TENSOR_OP_MATH_FP32",
            "TF_ENABLE_CUDNN_RNN_TENSOR_OP_MATH_FP32",
            "TF_ENABLE_CUDNN_TENSOR_OP_MATH_FP32",
            "TF_ENABLE_MLIR_OPTIMIZATIONS",
            "TF_ENABLE_ONEDNN_OPTS",
            "TF_ENABLE_WINOGRAD_NONFUSED",
            "TF_FORCE_GPU_ALLOW_GROWTH",
            "TF_FP16_CONV_USE_FP32_COMPUTE",
            "TF_FP16_MATMUL_USE_FP32_COMPUTE",
            "TF_GPU_ALLOCATOR",
            "TF_GPU_THREAD_COUNT",
            "TF_GPU_THREAD_MODE",
            "TF_NUM_INTEROP_THREADS",
            "TF_NUM_INTRAOP_THREADS",
            "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS",
            "TF_ONEDNN_USE_SYSTEM_ALLOCATOR",
            "TF_OVERRIDE_GLOBAL_THREADPOOL",
            "TF_USE_CUBLASLT",
            "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT",
            "TF_XLA_FLAGS",
            "XLA_FLAGS",
        ),
        read=("TF_", "XLA_", "MKL_", "DNNL_", "ONEDNN_", "CUBLAS", "CUDNN", "NVIDIA_"),
        effects={"TF_ENABLE_ONEDNN_OPTS": "tensorflow.onednn"},
        threads=("TF_NUM_INTRAOP_THREADS",),
        strict={
            "TF_DETERMINISTIC_OPS": "1",
            "TF_CUDNN_DETERMINISTIC": "1",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NVIDIA_TF32_OVERRIDE": "0",
        },
        fixed={"TF_NUM_INTEROP_THREADS": "1"},
    ),
    stored=Stored(within_epochs=True),
    probe="reprokit.client.probe.tensorflow",
)
