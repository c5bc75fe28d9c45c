"""Keras 3, on whatever backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprokit.client.frameworks import Format, Framework, Numbers, Stored, Variables

__all__ = ["FRAMEWORK"]


def _facts(keras: Any, _whole: bool) -> dict[str, Any]:
    return {"backend": keras.config.backend(), "floatx": keras.config.floatx()} if hasattr(keras, "config") else {}


def _lint(facts: Mapping[str, Any], determinism: str, _variables: Mapping[str, str]) -> list[str]:
    keras = facts.get("keras")
    if not keras or keras["backend"] != "tensorflow" or not keras["shuffles_arrays"] or determinism == "off":
        return []
    return [
        "Keras on TensorFlow shuffles arrays into the same order at every epoch after a seed was set; give `fit` a "
        "tf.data.Dataset with shuffle(…, reshuffle_each_iteration=True), or a PyDataset, if that is not meant."
    ]


FRAMEWORK = Framework(
    name="keras",
    rank=80,
    extra="keras",
    numbers=Numbers(asked=("torch", "tensorflow"), facts=_facts, lint=_lint),
    variables=Variables(
        numeric=("KERAS_BACKEND",),
        read=("KERAS_",),
        effects={"KERAS_BACKEND": "keras.backend"},
        scratch={"KERAS_HOME": "keras"},
    ),
    stored=Stored(
        formats={"keras": Format("reprokit.checkpoint.codecs.keras:save_keras", "model.keras")},
        model="reprokit.checkpoint.codecs.keras:load_model",
        opening="`reprokit checkpoint get --format keras` writes a `.keras` file; `checkpoint.tensors()` has the "
        "weights.",
        generators={"Keras RNG": "keras"},
    ),
)
