"""Keras configs that name what is none of Keras's inert classes, or another model than is stored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["keras_configs"]


def keras_configs(config: dict[str, Any], canary: str) -> Iterator[tuple[str, Any]]:
    """Yield configs that differ from that of a sound sequential model in one place."""

    def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        other = copy.deepcopy(config)
        change(other)
        return other

    def dense(other: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = next(layer for layer in other["config"]["layers"] if layer["class_name"] == "Dense")
        return found

    def as_layer(**facts: Any) -> Any:
        return changed(
            lambda other: other["config"]["layers"].insert(1, {"registered_name": None, "config": {}, **facts})
        )

    def as_field(field: str, value: Any) -> Any:
        return changed(lambda other: dense(other)["config"].update({field: value}))

    code = ["4wAAAAA=", None, None]
    yield (
        "lambda",
        as_layer(
            module="keras.layers",
            class_name="Lambda",
            config={
                "name": "l",
                "function": {
                    "class_name": "__lambda__",
                    "config": {"code": code[0], "defaults": None, "closure": None},
                },
            },
        ),
    )
    yield (
        "lambda-src",
        as_layer(module="keras.src.layers.core.lambda_layer", class_name="Lambda", config={"function": "relu"}),
    )
    yield "lambda-no-code", as_layer(module="keras.layers", class_name="Lambda", config={"function": "relu"})
    yield "lambda-alias", as_layer(module="keras", class_name="layers.Lambda", config={"function": "relu"})
    for field in ("activation", "kernel_initializer", "kernel_regularizer", "kernel_constraint", "dtype"):
        yield f"lambda-{field}", as_field(field, {"class_name": "__lambda__", "config": {"value": code}})
        yield (
            f"typespec-{field}",
            as_field(
                field,
                {
                    "class_name": "__typespec__",
                    "spec_name": "system",
                    "module": "os",
                    "registered_name": None,
                    "config": ["x"],
                },
            ),
        )
        for module, name in (
            ("os", "system"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("posix", "system"),
        ):
            told = {
                "module": module,
                "class_name": name,
                "config": {"command": f"touch {canary}"},
                "registered_name": None,
            }
            yield f"{field}-{module}.{name}", as_field(field, told)
            function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
            yield f"{field}-function-{module}.{name}", as_field(field, function)
    for module, name, more in (
        ("keras.utils", "get_file", {"fname": "x", "origin": "file:///etc/passwd"}),
        ("keras.models", "load_model", {"filepath": canary}),
        ("keras.saving", "load_model", {"filepath": canary}),
        ("keras.src.saving.saving_lib", "load_model", {"filepath": canary}),
        ("keras.config", "enable_unsafe_deserialization", {}),
        ("keras.src.saving.serialization_lib", "enable_unsafe_deserialization", {}),
        ("keras.src.utils.python_utils", "func_load", {"code": code[0]}),
        ("keras.src.utils.file_utils", "copy", {"src": "/etc/passwd", "dst": canary}),
        ("keras.src.utils", "os", {}),
        ("keras.src.utils.file_utils.os", "system", {}),
        ("keras.src.utils.file_utils.os.path", "join", {}),
        ("keras.callbacks", "ModelCheckpoint", {"filepath": canary}),
        ("keras.callbacks", "LambdaCallback", {}),
        ("keras.layers", "TFSMLayer", {"filepath": canary}),
        ("keras.layers", "TorchModuleWrapper", {"module": "gASV"}),
        ("keras.layers", "JaxLayer", {"call_fn": "x"}),
        ("keras.layers", "FlaxLayer", {"module": "x"}),
        ("keras.preprocessing.image", "load_img", {"path": "/etc/passwd"}),
        ("keras.datasets.mnist", "load_data", {}),
        ("keras.wrappers", "SKLearnClassifier", {"model": "x"}),
        ("keras.export", "ExportArchive", {}),
        ("keras.tree", "map_structure", {}),
        ("keras.metrics", "Mean", {}),
        ("keras.optimizers", "Adam", {}),
        ("keras.losses", "MeanSquaredError", {}),
        ("keras", "Variable", {"initializer": "zeros", "shape": [10**12]}),
        ("keras", "KerasTensor", {"shape": [1]}),
        ("kerasx.layers", "Dense", {"units": 1}),
        ("keras.layers.Dense", "__init__", {}),
        ("keras..layers", "Dense", {"units": 1}),
        ("tensorflow", "Module", {}),
        ("torch.nn", "Linear", {}),
        ("numpy", "load", {}),
        ("__main__", "Evil", {}),
        ("", "Dense", {"units": 1}),
        (None, "Dense", {"units": 1}),
        (["keras.layers"], "Dense", {"units": 1}),
        ("keras.layers", ["Dense"], {"units": 1}),
        ("keras.layers", "__class__", {}),
        ("keras.layers", "NoSuchLayer", {}),
    ):
        yield f"layer-{module}.{name}", as_layer(module=module, class_name=name, config=more)
        yield (
            f"initialiser-{module}.{name}",
            as_field(
                "kernel_initializer", {"module": module, "class_name": name, "config": more, "registered_name": None}
            ),
        )
    yield (
        "registered",
        as_layer(module="keras.layers", class_name="Dense", registered_name="builtins>eval", config={"units": 1}),
    )
    yield (
        "registered-other",
        as_layer(module="keras.layers", class_name="Dense", registered_name="Evil", config={"units": 1}),
    )
    yield "registered-no-module", as_layer(module=None, class_name="Evil", registered_name="pkg>Evil")
    yield (
        "registered-list",
        as_layer(module="keras.layers", class_name="Dense", registered_name=["x"], config={"units": 1}),
    )
    for name in ("StringLookup", "IntegerLookup", "TextVectorization"):
        yield (
            f"vocabulary-{name}",
            as_layer(module="keras.layers", class_name=name, config={"vocabulary": "/etc/passwd"}),
        )
    yield (
        "idf-weights",
        as_layer(module="keras.layers", class_name="TextVectorization", config={"idf_weights": "/etc/passwd"}),
    )
    for array in ("__numpy__", "__tensor__"):
        for dtype in ("O", "S1000000000", "V1000000000", "<U999999999", None, ["f4"]):
            yield (
                f"{array}-{dtype}",
                as_field("kernel_initializer", {"class_name": array, "config": {"value": "x", "dtype": dtype}}),
            )
    yield "units-huge", as_field("units", 10**12)
    yield "units-many", as_field("units", 10**9)
    yield "units-negative", as_field("units", -1)
    yield "units-text", as_field("units", "os.system('x')")
    yield "units-list", as_field("units", [1])
    yield "activation-text", as_field("activation", "os.system")
    yield "activation-builtin", as_field("activation", "eval")
    yield "activation-lambda", as_field("activation", "lambda x: x")
    yield "other-units", as_field("units", 3)
    yield "other-name", as_field("name", "elsewhere")
    yield "name-slash", as_field("name", "a/b")
    yield "name-path", as_field("name", "../../x")
    yield "no-layers", changed(lambda other: other["config"].pop("layers"))
    yield "layers-text", changed(lambda other: other["config"].update(layers="abc"))
    yield "layers-numbers", changed(lambda other: other["config"].update(layers=[1, 2]))
    yield "no-config", changed(lambda other: other.pop("config"))
    yield "config-text", changed(lambda other: other.update(config="abc"))
    yield "no-class", changed(lambda other: other.pop("class_name"))
    yield (
        "class-a-layer",
        {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}, "registered_name": None},
    )
    yield "class-a-list", [config]
    yield "may-build-shape", changed(lambda other: other.update(build_config={"input_shape": "abc"}))
    yield "input-huge", changed(lambda other: other["config"]["layers"][0]["config"].update(batch_shape=[None, 10**15]))
    deep: Any = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}, "registered_name": None}
    for level in range(60):
        inner = {"name": f"level{level}", "layers": [deep]}
        deep = {"module": "keras", "class_name": "Sequential", "config": inner, "registered_name": None}
    yield "nested-models", changed(lambda other: other["config"]["layers"].append(deep))
    yield (
        "many-objects",
        changed(lambda other: other["config"]["layers"].extend([copy.deepcopy(dense(other))] * 11_000)),
    )
