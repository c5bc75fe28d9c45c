"""PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprokit.client.facts.loaded import loaded
from reprokit.client.frameworks import Format, Framework, Numbers, Stored, Variables, at, valid

__all__ = ["FRAMEWORK"]

_PRECISIONS = ("highest", "high", "medium")
_CPU = ("MKL_CBWR", "ATEN_CPU_CAPABILITY")


def _facts(torch: Any, whole: bool) -> dict[str, Any]:
    found = {
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else [],
    }
    if not whole:
        return found
    found |= {
        "commit": str(torch.version.git_version)[:12],
        "interop_threads": torch.get_num_interop_threads(),
        "libraries": [
            line.strip(" -")
            for line in torch.__config__.show().splitlines()
            if "Math Kernel" in line or "DNN v" in line
        ],
        "mkldnn": bool(torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()),
        "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
        "precision": str(torch.get_float32_matmul_precision()),
        "flush_denormal": torch.tensor([1e-40], dtype=torch.float32, device="cpu").mul(1.0).item() == 0.0,
    }
    if found["devices"]:
        found |= {
            "cudnn": torch.backends.cudnn.version(),
            "capabilities": [list(torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())],
            "tf32": [bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)],
            "cudnn_switches": [bool(torch.backends.cudnn.benchmark), bool(torch.backends.cudnn.deterministic)],
        }
    library = loaded(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")
    if library is not None and hasattr(library, "mkl_serv_cbwr_get"):
        branch = int(library.mkl_serv_cbwr_get(1))  # 1 asks for the branch, as MKL_CBWR_BRANCH in mkl_service.h
        found["mkl_branch"] = {1: "off", 2: "auto", 3: "compatible"}.get(branch, str(branch))
    return found


def _switches(told: Mapping[str, Any], kernels: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    found = valid(told, {"threads": threads, "interop_threads": None})
    found |= {key: told[key] for key in ("deterministic", "mkldnn", "flush_denormal") if type(told.get(key)) is bool}
    if told.get("precision") in _PRECISIONS:
        found["precision"] = told["precision"]
    if kernels.get("cuda") and all(_is_pair(told.get(key)) for key in ("tf32", "cudnn_switches")):
        found |= {"cuda": True, "tf32": told["tf32"], "cudnn_switches": told["cudnn_switches"]}
    return found


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is bool for one in value)


def _set_switches(torch: Any, switches: Mapping[str, Any]) -> None:
    if "threads" in switches:
        torch.set_num_threads(switches["threads"])
    if "interop_threads" in switches:
        torch.set_num_interop_threads(switches["interop_threads"])
    if "deterministic" in switches:
        torch.set_deterministic_debug_mode("error" if switches["deterministic"] else "default")
    if "mkldnn" in switches:
        torch._C._set_mkldnn_enabled(switches["mkldnn"])
    if "precision" in switches:
        torch.set_float32_matmul_precision(switches["precision"])
    if switches.get("flush_denormal"):
        torch.set_flush_denormal(True)
    if "cuda" in switches and torch.cuda.is_available():
        torch.cuda.init()
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = switches["tf32"]
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = switches["cudnn_switches"]


def _lint(facts: Mapping[str, Any], determinism: str, variables: Mapping[str, str]) -> list[str]:
    found = _switched(facts["torch"], determinism, variables) if "torch" in facts else []
    return found + _loaders(facts.get("loaders", []))


def _switched(torch: Mapping[str, Any], determinism: str, variables: Mapping[str, str]) -> list[str]:
    found = []
    unset = [name for name in _CPU if name not in variables]
    if unset:
        found.append(
            f"{' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set: a CPU with other instructions gives "
            "other bits. Set under execution.variables (MKL_CBWR: COMPATIBLE, ATEN_CPU_CAPABILITY: default), or expect "
            "equal bits on this kind of CPU alone."
        )
    if not torch:
        return found
    overridden = determinism == "strict" or variables.get("NVIDIA_TF32_OVERRIDE") == "0"
    if torch["tf32"] and not overridden:
        found.append(f"TF32 is on ({', '.join(torch['tf32'])}): GPUs without it give other bits.")
    if torch["benchmark"]:
        found.append("torch.backends.cudnn.benchmark is on: each process chooses its convolutions by the clock.")
    if torch["precision"] != "highest":
        found.append(f"torch.set_float32_matmul_precision is {torch['precision']!r}: other devices round otherwise.")
    if torch["cuda"] and not torch["deterministic"] and determinism == "strict":
        found.append("The script turned torch.use_deterministic_algorithms off again.")
    return found


def _loaders(loaders: list[Mapping[str, Any]]) -> list[str]:
    found = []
    for loader in loaders:
        name = loader["name"]
        if loader["persistent"] and not loader["held"]:
            found.append(
                f"The DataLoader {name} has persistent_workers=True: what its workers drew cannot be restored. Pass it "
                "to the callback (loader=), which makes them anew each epoch."
            )
        if loader["generators"] and not loader["worker_init"]:
            found.append(
                f"Each of the {loader['workers']} workers of {name} draws the same numbers from its copy of "
                f"{', '.join(loader['generators'])}, and at every epoch again. Draw from torch's or NumPy's global "
                "generator, which each worker has its own of, or seed it by worker_init_fn."
            )
    return found


FRAMEWORK = Framework(
    name="torch",
    rank=40,
    extra="torch",
    numbers=Numbers(
        asked=("torch",),
        facts=_facts,
        switches=_switches,
        set_switches=_set_switches,
        kernels={
            "torch": at("reprokit.client.facts.fingerprint.pytorch:torch_kernels"),
            "cuda": at("reprokit.client.facts.fingerprint.pytorch:cuda_kernels"),
        },
        below={"cuda": ("torch",)},
        trained_by=("torch", "cuda"),
        lint=_lint,
    ),
    variables=Variables(
        numeric=(
            "ATEN_CPU_CAPABILITY",
            "ATEN_NUM_THREADS",
            "PYTORCH_CUDA_ALLOC_CONF",
            "TORCHINDUCTOR_DETERMINISTIC",
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
            "TORCH_BLAS_PREFER_CUBLASLT",
            "TORCH_CUDNN_V8_API_DEBUG",
            "TORCH_CUDNN_V8_API_DISABLED",
            "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT",
            "TORCH_LINALG_PREFER_CUSOLVER",
            "TORCH_LINALG_PREFER_MAGMA",
            "TORCH_MKLDNN_MATMUL_MIN_DIM",
        ),
        read=("ATEN_", "TORCH_", "TORCHINDUCTOR_", "MKL_", "DNNL_", "ONEDNN_", "CUBLAS", "CUDNN", "NVIDIA_"),
        effects={
            "ATEN_CPU_CAPABILITY": "torch.capability",
            "MKL_CBWR": "torch.mkl_branch",
            "CUDA_VISIBLE_DEVICES": "torch.devices",
        },
        strict={
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NVIDIA_TF32_OVERRIDE": "0",
            "TORCHINDUCTOR_DETERMINISTIC": "1",
        },
    ),
    stored=Stored(
        formats={"pt": Format("reprokit.checkpoint.codecs.torch:save_pt", "checkpoint.pt")},
        opening="`checkpoint.load_into(model)` puts the weights into a model that is built as the run built its own; "
        "`checkpoint.state_dict()` gives them as PyTorch tensors.",
        made_by="pt",
        within_epochs=True,
        generators={"torch RNG": "torch", "CUDA RNG": "cuda"},
    ),
    probe="reprokit.client.probe.pytorch",
)
