"""What a registry's folder holds, worked out from docs/format.md alone: no code of reprokit's reads anything here."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path

SCALE = int(os.environ.get("REPROKIT_TEST_SCALE", "1"))

Content = dict[str, bytes]


def history(root: Path) -> dict[str, list[dict]]:
    """Return the log of each package, oldest first, checked."""
    found: dict[str, list[dict]] = {}
    for folder in sorted(root.glob("log/*/*")):
        before: bytes | None = None
        entries = found.setdefault(f"{folder.parent.name}/{folder.name}", [])
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        assert names == [f"{number:010d}" for number in range(1, len(names) + 1)], f"gaps in {folder}: {names}"
        for name in names:
            raw = (folder / name).read_bytes()
            body, seal, rest = raw.split(b"\n")
            assert (hashlib.sha256(body).hexdigest().encode(), rest) == (seal, b""), f"{folder}/{name} is torn"
            entries.append(json.loads(body))
            assert entries[-1]["prev"] == (hashlib.sha256(before).hexdigest() if before else None)
            before = raw
    return found


def living(root: Path) -> set[str]:
    """Return the top hashes that the log names and has not deleted since."""
    found: set[str] = set()
    for entries in history(root).values():
        here: set[str] = set()
        for entry in entries:
            if entry["action"] == "publish":
                here.add(entry["top_hash"])
            elif entry["action"] == "delete":
                here.discard(entry["top_hash"])
        found |= here
    return found


def manifest(root: Path, top_hash: str) -> tuple[list[dict], str | None]:
    """Return a version's entries and its base."""
    lines = _lines(root, top_hash)[1:]
    base = None
    if lines and lines[0].startswith('{"base"'):
        base = json.loads(lines[0])["base"]
        theirs = _lines(root, base)[1:]
        assert not (theirs and theirs[0].startswith('{"base"')), f"the base {base} is a difference"
        told, lines = lines[1:], []
        for line in told:
            if line.startswith("["):
                first, count = json.loads(line)
                lines += theirs[first : first + count]
            else:
                lines.append(line)
    return [entry for entry in map(json.loads, lines) if "physical_keys" in entry], base


def _lines(root: Path, top_hash: str) -> list[str]:
    return gzip.decompress((root / "manifests" / f"{top_hash}.jsonl.gz").read_bytes()).decode().splitlines()


def garbage(root: Path) -> list[str]:
    """Return every file below a registry that nothing the log names leads to, with the reason."""
    versions = living(root)
    manifests, objects = set(versions), set()
    for top_hash in versions:
        entries, base = manifest(root, top_hash)
        manifests |= {base} if base else set()
        for entry in entries:
            kind, value = entry["hash"]["type"], entry["hash"]["value"]
            objects.add((kind, value if kind == "SHA256" else base64.b64decode(value).hex()))
    packed: dict[str, set[str]] = {}
    for path in root.glob("packs/*.zip"):
        with zipfile.ZipFile(path) as pack:
            packed[path.name] = {name for name in pack.namelist() if ("sha2-256-chunked", name) in objects}
    found = []
    for path in sorted(path for path in root.rglob("*") if not path.is_dir()):
        match path.relative_to(root).parts:
            case ("reprokit-registry.json",) | ("lock",):
                reason = None
            case ("log", _, _, name) if re.fullmatch(r"\d{10}", name):
                reason = None
            case ("tombstones", name) if name.endswith(".json"):
                reason = None
            case ("manifests", name):
                reason = None if name.removesuffix(".jsonl.gz") in manifests else "no version has this manifest"
            case ("objects", kind, start, rest):
                reason = None if (kind, start + rest) in objects else "no version uses this object"
            case ("packs", name) if name in packed:
                elsewhere = set().union(*(held for other, held in packed.items() if other != name))
                reason = None if packed[name] - elsewhere else "no version uses an object that only this pack has"
            case _:
                reason = "it has no place in a registry"
        if reason:
            found.append(f"{path.relative_to(root)}: {reason}")
    return found
