"""skops files as the callback writes them, but for what was changed."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

from tests.checkpoint.corpus import Call, Corpus, mutated

__all__ = ["skops_files"]


def skops_files(canary: str, scale: int) -> Corpus:
    """Yield skops files as the callback writes them, but for what was changed. Needs scikit-learn and skops."""
    from sklearn.linear_model import LogisticRegression

    from reprokit.callbacks.sklearn.skops_file import dump

    model = LogisticRegression().fit(np.arange(8.0).reshape(4, 2), [0, 1, 0, 1])
    sound = dump(model).data
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])

    def packed(changed: dict[str, bytes | None], *, method: int = zipfile.ZIP_STORED, twice: str = "") -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in {**members, **changed}.items():
                if data is not None:
                    archive.writestr(zipfile.ZipInfo(name), data, method)
            if twice:
                archive.writestr(twice, members[twice])
        return out.getvalue()

    def with_node(node: Any, where: str = "tol", more: dict[str, bytes | None] | None = None) -> bytes:
        changed = copy.deepcopy(schema)
        changed["content"]["content"][where] = node
        return packed({"schema.json": json.dumps(changed).encode(), **(more or {})})

    def node(kind: str, name: str, loader: str, **more: Any) -> dict[str, Any]:
        return {"__class__": name, "__module__": kind, "__loader__": loader, **more}

    def plain(value: Any) -> dict[str, Any]:
        return node("builtins", "str", "JsonNode", content=json.dumps(value), is_json=True)

    def several(kind: str, *items: Any) -> dict[str, Any]:
        return node("builtins", kind, f"{kind.capitalize()}Node", content=list(items))

    command = several("tuple", plain(f"touch {canary}"))
    no_words = node("builtins", "dict", "DictNode", content={}, key_types=several("list"))
    for kind, name in (
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("subprocess", "Popen"),
        ("posix", "system"),
        ("numpy", "load"),
        ("joblib.numpy_pickle", "load"),
        ("os.path", "join"),
    ):
        told = f"{kind}.{name}"
        yield f"function-{told}", with_node(node(kind, name, "FunctionNode"))
        yield f"type-{told}", with_node(node(kind, name, "TypeNode"))
        yield f"object-{told}", with_node(node(kind, name, "ObjectNode", content=no_words))
        yield f"constructor-{told}", with_node(node(kind, name, "ConstructorFromReduceNode", content=command))
        yield f"list-{told}", with_node(node(kind, name, "ListNode", content=[plain(f"touch {canary}")]))
        yield (
            f"reduce-{told}",
            with_node({**node(kind, name, "ReduceNode", content=no_words), "__reduce__": {"args": command}}),
        )
        content = {
            "func": node(kind, name, "FunctionNode"),
            "args": command,
            "kwds": no_words,
            "namespace": plain(None),
        }
        yield f"partial-{told}", with_node(node("functools", "partial", "PartialNode", content=content))
        yield (
            f"tree-{told}",
            with_node({**node(kind, name, "TreeNode", content=no_words), "__reduce__": {"args": command}}),
        )
        yield f"array-{told}", with_node(node(kind, name, "NdArrayNode", type="numpy", file="1.npy"))
        yield f"random-{told}", with_node(node(kind, name, "RandomStateNode", content=no_words))
    yield "method", with_node(node("builtins", "str", "MethodNode", content={"func": "format", "obj": plain("x")}))
    yield (
        "method-of-model",
        with_node(
            node(
                "sklearn.linear_model._logistic",
                "LogisticRegression",
                "MethodNode",
                content={"func": "__reduce__", "obj": schema},
            ),
            "C",
        ),
    )
    yield "method-other", with_node(node("os", "x", "MethodNode", content={"func": "system", "obj": plain("x")}))
    for name in ("methodcaller", "attrgetter", "itemgetter", "call", "setitem"):
        yield f"operator-{name}", with_node(node("operator", name, "OperatorFuncNode", attrs=command))
    yield "operator-os", with_node(node("os", "system", "OperatorFuncNode", attrs=command))
    generator = node(
        "numpy.random._generator",
        "Generator",
        "RandomGeneratorNode",
        content={"bit_generator": {"content": {"bit_generator": plain("seed")}}, "seed_seq": no_words},
    )
    yield "generator", with_node(generator)
    for position in (-1, 625, 10**9):
        state = node("builtins", "dict", "DictNode", key_types=several("list"), content={"pos": plain(position)})
        yield (
            f"position-{position}",
            with_node(node("numpy.random.mtrand", "RandomState", "RandomStateNode", content=state)),
        )
    yield (
        "pool",
        with_node(node("builtins", "dict", "DictNode", key_types=several("list"), content={"pool_size": plain(10**7)})),
    )
    shared: Any = {**plain(1), "__id__": 500}
    for number in range(501, 560):
        cached = {"__class__": None, "__module__": None, "__loader__": "CachedNode", "__id__": number - 1}
        shared = {**several("tuple", shared, cached), "__id__": number}
    yield "shared-set", with_node(several("set", shared))
    stub = {**plain(1), "__id__": 559}  # skops takes what has had the number before
    yield "shared-set-by-number", with_node(several("list", shared, several("set", stub)))
    yield "loader", with_node(node("builtins", "dict", "NoSuchNode", content={}))
    yield "no-loader", with_node({"__class__": "x", "__module__": "y"})
    yield "no-node", with_node([1, 2])
    yield "class-no-text", with_node(node("os", ["system"], "FunctionNode"))  # type: ignore[arg-type]
    yield "cached", with_node({"__class__": None, "__module__": None, "__loader__": "CachedNode", "__id__": 999})
    yield (
        "cycle",
        with_node(
            node(
                "builtins",
                "list",
                "ListNode",
                __id__=77,
                content=[{"__class__": None, "__module__": None, "__loader__": "CachedNode", "__id__": 77}],
            )
        ),
    )
    deep: Any = plain(1)
    for _ in range(3000):
        deep = several("list", deep)
    text = "[" * 3000 + "]" * 3000
    yield (
        "deep-json",
        packed({"schema.json": json.dumps(schema).replace('"tol":', f'"deep": {text}, "tol":', 1).encode()}),
    )
    shallow: Any = plain(1)
    for _ in range(190):
        shallow = several("list", shallow)
    yield "may-deep-nodes", with_node(shallow)
    yield "json-in-json", with_node(node("builtins", "str", "JsonNode", content="[" * 100_000))
    yield "json-no-text", with_node(node("builtins", "str", "JsonNode", content={"a": 1}))
    yield "nan", packed({"schema.json": members["schema.json"].replace(b'"content"', b'"x": NaN, "content"', 1)})
    yield (
        "twice-key",
        packed({"schema.json": members["schema.json"].replace(b'"content"', b'"protocol": 1, "content"', 1)}),
    )
    for value in ("99", "-1", "true", '"2"', "null"):
        changed = members["schema.json"].replace(b'"protocol": ', b'"protocol": %s, "old": ' % value.encode())
        yield f"protocol-{value}", packed({"schema.json": changed})
    yield "no-schema", packed({"schema.json": None})
    yield "schema-list", packed({"schema.json": b"[]"})
    yield "schema-bytes", packed({"schema.json": b"\xff\xfe"})
    yield "missing-member", packed({"1.npy": None})
    yield "slip", packed({"../../slip.npy": members["1.npy"]})
    yield "absolute", packed({"/tmp/slip.npy": members["1.npy"]})  # noqa: S108 - nothing is written there
    yield "backslash", packed({"..\\slip.npy": members["1.npy"]})
    yield "twice", packed({}, twice="1.npy")
    yield "deflated", packed({}, method=zipfile.ZIP_DEFLATED)
    yield "bomb", packed({"1.npy": bytes(300 * 1024 * 1024)}, method=zipfile.ZIP_DEFLATED)

    def npy(header: str, body: bytes = b"") -> bytes:
        text = header.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body

    fine = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,)}"
    for name, data in (
        ("long", npy(fine % "1000000000000", bytes(16))),
        ("short", npy(fine % "1", bytes(16))),
        ("negative", npy(fine % "-2", bytes(16))),
        ("overflow", npy(fine % "4294967296, 4294967296, 16", bytes(16))),
        ("no-bytes", npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}")),
        (
            "objects",
            npy(
                "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
                pickle.dumps(Call(exec, f"open({canary!r}, 'w')")),
            ),
        ),
        ("code", npy("__import__('os').system('touch " + canary + "')")),
        ("header", npy("{'descr': [[[[" * 500)),
        ("cut", members["1.npy"][:20]),
        ("pickle", pickle.dumps(Call(exec, f"open({canary!r}, 'w')"))),
        ("empty", b""),
        ("version", b"\x93NUMPY\x09\x00" + bytes(50)),
    ):
        yield f"npy-{name}", packed({"1.npy": data})

    def npz(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(f"{name}.npy", data)
        return out.getvalue()

    sparse = node("scipy.sparse._csr", "csr_matrix", "SparseMatrixNode", type="scipy", file="9.npz")
    big = npy(fine % str(20 * 1024 * 1024), bytes(160 * 1024 * 1024))
    for name, data in (
        ("bomb", npz(data=big)),
        ("lie", npz(data=npy(fine % "1000000000000", bytes(16)))),
        ("empty", npz()),
        ("no-zip", b"PK\x03\x04"),
        (
            "objects",
            npz(
                format=npy(
                    "{'descr': '|O', 'fortran_order': False, 'shape': ()}",
                    pickle.dumps(Call(exec, f"open({canary!r}, 'w')")),
                )
            ),
        ),
    ):
        yield f"npz-{name}", with_node(sparse, more={"9.npz": data})
    yield "cut", sound[: len(sound) // 2]
    yield "no-zip", b"not a zip"
    yield "empty", b""
    yield from mutated(sound, 60 * scale, 7)
    for name, data in mutated(members["schema.json"], 60 * scale, 8):
        yield f"{name}-schema", packed({"schema.json": data})
