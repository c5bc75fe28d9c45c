"""Pickles, joblib files and `.pt` files that call what nobody named, or take memory and time out of proportion."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.checkpoint.corpus import Call, Corpus, mutated

__all__ = ["pickles", "pt_files"]


def _calls(canary: str) -> Iterator[tuple[str, Any]]:
    import builtins
    import functools
    import importlib
    import operator
    import os
    import pathlib
    import runpy
    import shutil
    import subprocess
    import types
    import webbrowser

    touch = f"open({canary!r}, 'w').close()"
    yield "os-system", Call(os.system, f"touch {canary}")
    yield "os-popen", Call(os.popen, f"touch {canary}")
    yield "os-mkdir", Call(os.mkdir, canary)
    yield "exec", Call(exec, touch)
    yield "eval", Call(eval, touch)
    yield "popen", Call(subprocess.Popen, ["touch", canary])
    yield "check-output", Call(subprocess.check_output, ["touch", canary])
    yield "open", Call(open, canary, "w")
    yield "getattr", Call(getattr, Call(importlib.import_module, "os"), "system")
    yield "import", Call(builtins.__import__, "antigravity")
    yield "runpy", Call(runpy.run_path, canary)
    yield "partial", Call(functools.partial, Call(os.system, f"touch {canary}"))
    yield "methodcaller", Call(operator.methodcaller("touch"), Call(pathlib.Path, canary))
    yield "copy", Call(shutil.copyfile, "/etc/hostname", canary)
    yield "browser", Call(webbrowser.open, "file:///dev/null")
    yield "loads", Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {canary}")))
    yield "numpy-load", Call(np.load, canary, None, True)
    yield "memmap", Call(np.memmap, canary, "u1", "w+", 0, (8,))
    yield "fromfile", Call(np.fromfile, "/etc/hostname")
    yield "function-type", Call(types.SimpleNamespace)
    yield "print", Call(print, "x")
    yield "input", Call(input)
    yield "exit", Call(os._exit, 3)
    yield "in-list", [1, {"a": (Call(os.system, f"touch {canary}"),)}]
    yield "as-key", {Call(os.system, f"touch {canary}"): 1}
    yield "in-objects", np.array([Call(os.system, f"touch {canary}"), 1], dtype=object)


def _assembled(canary: str) -> Corpus:
    """Pickles that no pickler writes."""
    command = f"touch {canary}".encode()
    system = b"cos\nsystem\n"
    yield "inst", b"(S'%s'\nios\nsystem\n." % command
    yield "obj", b"(%sS'%s'\no." % (system, command)
    yield "text", b"%s(S'%s'\ntR." % (system, command)
    yield "posix", b"cposix\nsystem\n(S'%s'\ntR." % command
    yield "nt", b"cnt\nsystem\n(S'%s'\ntR." % command
    yield "python2", b"c__builtin__\neval\n(S'1'\ntR."
    yield "dotted", b"\x80\x04\x8c\x05numpy\x8c\x0bf2py.os.path\x93."
    yield "dotted-builtin", b"\x80\x04\x8c\x08builtins\x8c\x0elist.__class__\x93."
    yield "dotted-safe", b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__subclasses__\x93)R."
    yield "name-no-text", b"\x80\x04K\x01K\x02\x93."
    yield "ext1", b"\x80\x02\x82\x01."
    yield "ext2", b"\x80\x02\x83\x01\x00."
    yield "ext4", b"\x80\x02\x84\x01\x00\x00\x00."
    yield "ext1-call", b"\x80\x02\x82\x01U%c%s\x85R." % (len(command), command)
    yield "persid", b"P../../x\n."
    yield "binpersid", b"\x80\x02U\x03os.Q."
    yield "binpersid-tuple", b"\x80\x02U\x07storageU\x01a\x86Q."
    yield "newobj", b"\x80\x02csubprocess\nPopen\n](U\x05touchU%c%se\x85\x81." % (len(canary), canary.encode())
    yield "newobj-ex", b"\x80\x04csubprocess\nPopen\n)}\x92."
    yield "build-on-type", b"c__builtin__\nlist\n}S'append'\n%ssb." % system
    yield "build-on-ndarray", b"cnumpy\nndarray\n}S'sum'\nI1\nsb."
    yield "build-on-function", b"c_codecs\nencode\n}S'__wrapped__'\n%ssb." % system
    yield "build-on-scalar-type", b"cnumpy\nfloat64\n}S'x'\nI1\nsb."
    yield "build-on-list", b"]}S'__class__'\n%ssb." % system
    yield "reconstructor", b"ccopy_reg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR."
    yield "reconstructor-base", b"ccopy_reg\n_reconstructor\n(c__builtin__\nlist\n%sNtR." % system
    yield "reconstructor-safe", b"ccopy_reg\n_reconstructor\n(c__builtin__\nlist\nc__builtin__\nobject\nNtR."
    yield "call-a-number", b"I1\n(tR."
    yield "call-a-list", b"](tR."
    yield "call-with-list", b"c__builtin__\nlist\n]R."
    yield "setitem-on-type", b"c__builtin__\ndict\nI1\nI2\ns."
    yield "append-to-array", _array_state("(I0\nt", "S'f8'\n", b"S''\n")[:-1] + b"I1\na."
    yield "default-factory", b"ccollections\ndefaultdict\n(%stR." % system
    yield "default-array", b"ccollections\ndefaultdict\n(cnumpy\nndarray\ntR."
    yield "bytes-of-number", b"c__builtin__\nbytes\n(L100000000000L\ntR."
    yield "bytearray-of-number", b"c__builtin__\nbytearray\n(L100000000000L\ntR."
    yield "bytearray8", b"\x80\x05\x96" + struct.pack("<Q", 10**13) + b"."
    yield "encode-bomb", b"c_codecs\nencode\n(S'x'\nS'zip'\ntR."
    yield "array-called", b"cnumpy\nndarray\n((L1000000000000L\nttR."
    yield "reconstruct-large", b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1000000000000L\ntS'b'\ntR."
    yield "reconstruct-other", b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmemmap\n(I0\ntS'b'\ntR."
    yield "void", b"cnumpy\nvoid\n(L100000000000L\ntR."
    yield "deep-key", b"}(" + b")" + b"\x85" * 100_000 + b"I1\nu."
    yield "shared-key", b"}(I1\n" + b"2\x86" * 200 + b"I1\nu."
    yield "shared-set", b"\x80\x04\x8f(I1\n" + b"2\x86" * 200 + b"\x90."
    yield "shared-frozen", b"\x80\x04(I1\n" + b"2\x86" * 200 + b"\x91."
    shared = b"](I1\ne" + b"".join(b"p%d\n0(g%d\ng%d\nl" % (n, n, n) for n in range(60))
    yield "shared-called", shared + b")R."
    yield "shared-persid", shared + b"Q."
    yield "shared-text", b"cbuiltins\nstr\n" + shared + b"\x85R."
    yield "may-shared-build", shared + b"}b."
    yield "shared-tuple-called", b"I1\n" + b"2\x86" * 200 + b")R."
    yield "shared-tuple-persid", b"I1\n" + b"2\x86" * 200 + b"Q."
    yield "punycode", b"cbuiltins\nbytes\n(X\x01\0\0\0xX\x08\0\0\0punycodetR."
    yield "equal-hashes", b"}(" + b"".join(b"L%dL\nN" % (n * (2**61 - 1)) for n in range(1, 300)) + b"u."
    copies = b"c__builtin__\ntuple\np1\n0" + b"(lp0\n" + b"(" + b"I1\n" * 5000 + b"e0"
    yield "copies", copies + b"(" + b"g1\n(g0\ntR" * 40_000 + b"t."
    yield "encoded-copies", b"(S'%s'\np0\nc_codecs\nencode\np1\n" % (b"x" * 100_000) + b"g1\n(g0\ntR" * 40_000 + b"t."
    yield "odd-items", b"}(I1\nu."
    yield "empty", b""
    yield "no-stop", b"N"
    yield "stop-only", b"."
    yield "protocol", b"\x80\xffN."
    yield "no-opcode", b"\x80\x04\x00."
    yield "memo", b"h\x05."
    yield "underflow", b"R."
    yield "no-mark", b"t."
    yield "may-frame", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."
    yield "may-frame-short", b"\x80\x04\x95" + struct.pack("<Q", 100) + b"N."
    yield "unicode8", b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x."
    yield "binbytes8", b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x."
    yield "negative-length", b"T" + struct.pack("<i", -1) + b"x."
    yield "long4", b"\x80\x02\x8b" + struct.pack("<i", -5) + b"x."
    yield "many-digits", b"L" + b"9" * 10_000 + b"L\n."
    yield "buffer", b"\x80\x05\x97."
    yield "legacy-pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100)
    yield from _arrays()


def _array_state(shape: str, dtype: str, raw: bytes, state: bytes = b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb") -> bytes:
    """Return a pickle of an array from these parts, in protocol 0."""
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
    return head + shape.encode() + b"cnumpy\ndtype\n(" + dtype.encode() + b"I0\nI1\ntR" + state + b"I0\n" + raw + b"tb."


def _arrays() -> Corpus:
    eight = b"c_codecs\nencode\n(S'12345678'\nS'latin1'\ntR"
    yield "array-long", _array_state("(L1000000000000L\nt", "S'f8'\n", eight)
    yield "array-short", _array_state("(I2\nt", "S'f8'\n", eight)
    yield "array-negative", _array_state("(I-1\nt", "S'f8'\n", eight)
    yield "array-overflow", _array_state("(L4294967296L\nL4294967296L\nt", "S'f8'\n", eight)
    yield "array-bool-length", _array_state("(I01\nt", "S'f8'\n", eight)
    yield "array-no-shape", _array_state("I1\n", "S'f8'\n", eight)
    yield "array-of-objects", _array_state("(I1\nt", "S'O8'\n", eight, b"(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb")
    yield "array-no-bytes", _array_state("(L281474976710655L\nt", "S'V0'\n", b"c_codecs\nencode\n(S''\nS'latin1'\ntR")
    yield "dtype-no-text", _array_state("(I1\nt", "cos\nsystem\n", eight)
    yield "dtype-fields-text", _array_state("(I1\nt", "S'i4,O,f8'\n", eight)
    yield "dtype-order", _array_state("(I1\nt", "S'f8'\n", eight, b"(I3\nS'!'\nNNNI-1\nI-1\nI0\ntb")
    yield "dtype-no-state", _array_state("(I1\nt", "S'f8'\n", eight, b"(I3\ntb")
    field = b"(cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntbI%d\nt"
    for name, spec, offset in (("object", b"O8", 0), ("outside", b"f8", 1000), ("negative", b"f8", -8)):
        fields = b"(I3\nS'|'\nN(S'a'\nt(dS'a'\n" + field % (spec, offset) + b"sI8\nI1\nI16\ntb"
        yield f"dtype-{name}-field", _array_state("(I1\nt", "S'V8'\n", eight, fields)
    inner = (
        b"(I3\nS'|'\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb(L1000000000L\nttNNI8\nI1\nI0\ntb"
    )
    yield "dtype-large-inner", _array_state("(I1\nt", "S'V8'\n", eight, inner)
    size = b"(I3\nS'|'\nN(t(dL1000000000000L\nI1\nI16\ntb"
    yield "dtype-large-item", _array_state("(I1\nt", "S'V8'\n", eight, size)
    yield "scalar-of-objects", b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'x'\ntR."
    yield (
        "scalar-short",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR" + eight[:-16] + b"'\ntRtR.",
    )
    made_of = b"(C\x0812345678cnumpy\ndtype\n(X\x02\0\0\0%sI0\nI1\ntR(%stX\x01\0\0\0%st"
    buffer = b"\x80\x04cnumpy._core.numeric\n_frombuffer\n" + made_of + b"R."
    yield "buffer-long", buffer % (b"f8", b"L1000000000000L\n", b"C")
    yield "buffer-objects", buffer % (b"O8", b"I1\n", b"C")
    yield "buffer-order", buffer % (b"f8", b"I1\n", b"Z")


def _joblib_files(canary: str) -> Corpus:
    import os

    import joblib

    def dumped(value: Any, **options: Any) -> bytes:
        out = io.BytesIO()
        joblib.dump(value, out, **options)
        return out.getvalue()

    evil = np.array([Call(os.system, f"touch {canary}")], dtype=object)
    for protocol in range(6):
        yield f"objects-{protocol}", dumped({"a": np.arange(3), "b": evil}, protocol=protocol)
    for name in ("zlib", "gzip", "bz2", "lzma", "xz"):
        yield f"objects-{name}", dumped(evil, compress=(name, 1))
    yield "list-of-arrays", dumped([evil, [evil, np.zeros(3)]])
    nested: Any = evil
    for _ in range(20):
        nested = np.array([nested, None], dtype=object)
    yield "objects-in-objects", dumped(nested)
    sound = dumped(np.arange(100.0), protocol=2)
    yield "array-cut", sound[:-80]
    yield "array-padding", sound.replace(b"\x0a" + b"\xff" * 10, b"\xff" + b"\xff" * 10, 1)[:-100]
    shape = b"q\x08K\x64\x85"
    for name, other in (
        ("huge", b"q\x08\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85"),
        ("no-tuple", b"q\x08K\x64]"),
    ):
        if shape in sound:
            yield f"shape-{name}", sound.replace(shape, other, 1)
    yield "subclass", sound.replace(b"cnumpy\nndarray\n", b"cos\nsystem\n")
    yield "subclass-memmap", sound.replace(b"cnumpy\nndarray\n", b"cbuiltins\nlist\n")
    yield "order", sound.replace(b"X\x01\x00\x00\x00C", b"X\x01\x00\x00\x00Z")
    yield "old-wrapper", b"\x80\x02cjoblib.numpy_pickle_compat\nNDArrayWrapper\n)\x81."
    zeros = bytes(160 * 1024 * 1024)
    yield "bomb-zlib", zlib.compress(zeros, 1)
    yield "bomb-gzip", gzip.compress(zeros, 1)
    yield "bomb-bz2", bz2.compress(zeros, 1)
    yield "bomb-xz", lzma.compress(zeros, preset=0)
    yield "bomb-lzma", lzma.compress(zeros, format=lzma.FORMAT_ALONE, preset=0)
    yield "cut-zlib", zlib.compress(pickle.dumps([1, 2, 3]))[:-6]
    yield "no-xz", b"\xfd7zXZ\x00" + bytes(50)
    yield "lz4", b"\x04\x22\x4d\x18" + bytes(50)


def pickles(canary: str, scale: int) -> Corpus:
    """Yield pickles and joblib files."""
    for name, value in _calls(canary):
        for protocol in range(6):
            try:
                yield f"{name}-{protocol}", pickle.dumps(value, protocol)
            except (pickle.PicklingError, TypeError):
                continue
    yield from _assembled(canary)
    yield from _joblib_files(canary)
    sound = pickle.dumps({"a": np.arange(9.0), "b": [1, "x", (None, {2, 3})], "c": np.array(["u"], dtype=object)}, 4)
    yield from mutated(sound, 150 * scale, 1)
    yield from ((f"{name}-2", data) for name, data in mutated(pickle.dumps(json.loads("[1, {}]"), 0), 50 * scale, 2))


def pt_files(canary: str, scale: int) -> Corpus:
    """Yield `.pt` files. Needs PyTorch."""
    import torch

    out = io.BytesIO()
    torch.save({"t": torch.arange(4.0), "n": [1, "x", b"y"]}, out)
    sound = out.getvalue()
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = members["archive/data.pkl"]

    def packed(changed: dict[str, bytes | None], *, method: int = zipfile.ZIP_STORED, twice: str = "") -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in {**members, **changed}.items():
                if data is not None:
                    archive.writestr(name, data)
            if twice:
                archive.writestr(twice, members[twice])
        return out.getvalue()

    for name, value in _calls(canary):
        for protocol in (2, 4):
            try:
                yield f"{name}-{protocol}", packed({"archive/data.pkl": pickle.dumps(value, protocol)})
            except (pickle.PicklingError, TypeError):
                continue
    for name, data in _assembled(canary):
        harmless = name == "legacy-pt"  # a number, inside a zip
        yield "may-" * harmless + name, packed({"archive/data.pkl": data})

    def gadget(body: bytes) -> bytes:
        return packed({"archive/data.pkl": b"\x80\x02" + body})

    nested = pickle.dumps(Call(exec, f"open({canary!r}, 'w')"), 2)
    as_text = b"c_codecs\nencode\nX%sX\x06\0\0\0latin1\x86R" % (
        struct.pack("<I", len(nested.decode("latin1").encode())) + nested.decode("latin1").encode()
    )
    yield "load-from-bytes", gadget(b"ctorch.storage\n_load_from_bytes\n" + as_text + b"\x85R.")
    yield "torch-load", gadget(b"ctorch\nload\nX\x01\0\0\0x\x85R.")
    yield "hub", gadget(b"ctorch.hub\nload\nX\x01\0\0\0xX\x01\0\0\0y\x86R.")
    yield "jit", gadget(b"ctorch.jit\nload\nX\x01\0\0\0x\x85R.")
    yield "module", gadget(b"ctorch.nn.modules.linear\nLinear\n)\x81}b.")
    yield "bytearray", gadget(b"c__builtin__\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.")
    yield "bytearray-3", gadget(b"cbuiltins\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.")
    for number, (old, new) in enumerate(
        [
            (b"K\x04", b"J\xff\xff\xff\x7f"),
            (b"QK\x00", b"QJ\xff\xff\xff\x7f"),
            (b"QK\x00", b"QJ\xff\xff\xff\xff"),
            (b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"),
            (b"K\x01\x85", b"J\xff\xff\xff\xff\x85"),
            (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
            (b"X\x01\x00\x00\x000", b"X\x10\x00\x00\x00../../../../etc/"),
            (b"storage", b"stor\x61gf"),
            (b"ctorch\nFloatStorage\n", b"ctorch\nDoubleStorage\n"),
            (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
        ]
    ):
        assert old in pickled
        yield f"tensor-{number}", packed({"archive/data.pkl": pickled.replace(old, new)})
    yield "compressed", packed({}, method=zipfile.ZIP_DEFLATED)
    yield "bomb", packed({"archive/data/0": bytes(300 * 1024 * 1024)}, method=zipfile.ZIP_DEFLATED)
    yield "twice", packed({}, twice="archive/data.pkl")
    yield "two-pickles", packed({"other/data.pkl": pickled})
    yield "no-pickle", packed({"archive/data.pkl": None})
    yield "no-data", packed({"archive/data/0": None})
    yield "short-data", packed({"archive/data/0": b"1234"})
    yield "byteorder", packed({"archive/byteorder": b"middle"})
    yield "torchscript", packed({"archive/constants.pkl": pickled, "archive/code/x.py": b"import os"})
    yield "other-zip", packed(dict.fromkeys(members) | {"a.txt": b"x"})
    yield "cut", sound[: len(sound) // 2]
    yield "tail-cut", sound[:-10]
    yield "only-magic", b"PK\x03\x04"
    yield from mutated(sound, 60 * scale, 3)
    for name, data in mutated(pickled, 100 * scale, 4):
        yield f"{name}-pickle", packed({"archive/data.pkl": data})
