"""What in a recipe, or in its script's process, gives other bits elsewhere or in another run. Reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprokit.schema.lock import RunLock

__all__ = ["lint"]

_CPU = ("MKL_CBWR", "ATEN_CPU_CAPABILITY")


def lint(lock: RunLock, facts: Mapping[str, Any]) -> list[str]:
    """Return one sentence or two for each thing that decides bits and was left open.

    Args:
        facts: What the script's process said of itself; see `reprokit.client.probe.numerics`.
    """
    return [*_execution(lock, facts), *_torch(lock, facts), *_loaders(facts), *_others(lock, facts)]


def _execution(lock: RunLock, facts: Mapping[str, Any]) -> list[str]:
    execution, found = lock.execution, []
    if lock.recipe.execution.threads is None:
        found.append(
            f"execution.threads is not set: it is {execution.threads} here, the cores of this machine; another number "
            "of threads gives other bits."
        )
    if execution.determinism == "off":
        found.append(
            "execution.determinism is off: PYTHONHASHSEED is unset, so that sets are ordered by chance, and no "
            "generator is seeded, those of DataLoader workers neither."
        )
    elif execution.determinism == "seeded":
        found.append(
            "execution.determinism is seeded: operators without a fixed order of additions stay in use, on GPUs and in "
            "TensorFlow; strict turns them off."
        )
    unset = [name for name in _CPU if name not in execution.variables]
    if unset and "torch" in facts:
        found.append(
            f"{' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set: a CPU with other instructions gives "
            "other bits. Set under execution.variables (MKL_CBWR: COMPATIBLE, ATEN_CPU_CAPABILITY: default), or expect "
            "equal bits on this kind of CPU alone."
        )
    return found


def _torch(lock: RunLock, facts: Mapping[str, Any]) -> list[str]:
    torch, found = facts.get("torch"), []
    if not torch:
        return []
    overridden = lock.execution.determinism == "strict" or lock.execution.variables.get("NVIDIA_TF32_OVERRIDE") == "0"
    if torch["tf32"] and not overridden:
        found.append(f"TF32 is on ({', '.join(torch['tf32'])}): GPUs without it give other bits.")
    if torch["benchmark"]:
        found.append("torch.backends.cudnn.benchmark is on: each process chooses its convolutions by the clock.")
    if torch["precision"] != "highest":
        found.append(f"torch.set_float32_matmul_precision is {torch['precision']!r}: other devices round otherwise.")
    if torch["cuda"] and not torch["deterministic"] and lock.execution.determinism == "strict":
        found.append("The script turned torch.use_deterministic_algorithms off again.")
    return found


def _loaders(facts: Mapping[str, Any]) -> list[str]:
    found = []
    for loader in facts.get("loaders", []):
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


def _others(lock: RunLock, facts: Mapping[str, Any]) -> list[str]:
    found, keras = [], facts.get("keras")
    seeded = lock.execution.determinism != "off"
    if keras and keras["backend"] == "tensorflow" and keras["shuffles_arrays"] and seeded:
        found.append(
            "Keras on TensorFlow shuffles arrays into the same order at every epoch after a seed was set; give `fit` a "
            "tf.data.Dataset with shuffle(…, reshuffle_each_iteration=True), or a PyDataset, if that is not meant."
        )
    if facts.get("unseeded"):
        source = "NumPy's global generator, so on everything drawn before" if seeded else "chance"
        found.append(f"Without random_state, what is drawn depends on {source}: {', '.join(facts['unseeded'][:5])}.")
    return found
