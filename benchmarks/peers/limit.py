"""The physical limit as plain Python: `save FOLDER STORE [--fsync]`, `restore STORE FOLDER`. Not a product.

Each byte is read once, hashed in chunks of 8 MiB and written once; files from 1 MiB up on two threads, smaller ones
one after another into one pack. What the stat of a file says is unchanged is not read again. Restoring hashes again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

CHUNK = 8 << 20
SMALL = 1 << 20


def files_of(root: str) -> dict[str, os.stat_result]:
    found: dict[str, os.stat_result] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(os.path.join(root, prefix)) as children:
            for child in children:
                if child.is_dir(follow_symlinks=False):
                    pending.append(prefix + child.name + "/")
                else:
                    found[prefix + child.name] = child.stat(follow_symlinks=False)
    return found


def copy(source: str, target: str, expected: str | None, fsync: bool) -> str:
    """Copy one file, hashed on the way, and return the hash of its chunks' hashes."""
    outer = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        while count := reader.readinto(buffer):
            outer.update(hashlib.sha256(buffer[:count]).digest())
            writer.write(buffer[:count])
        if fsync:
            os.fsync(writer.fileno())
    value = outer.hexdigest()
    if expected is not None and value != expected:
        raise SystemExit(f"{source} is corrupt")
    return value


def save(root: str, store: str, fsync: bool) -> None:
    os.makedirs(store, exist_ok=True)
    index: dict[str, list] = {}
    if os.path.exists(f"{store}/index.json"):
        with open(f"{store}/index.json") as handle:
            index = json.load(handle)
    large, serial = [], sum(name.startswith("o") for name in os.listdir(store))
    with open(f"{store}/pack", "ab") as pack:
        offset = pack.tell()
        for key, status in files_of(root).items():
            known = index.get(key)
            if known and known[0] == status.st_size and known[1] == status.st_mtime_ns:
                continue
            if status.st_size >= SMALL:
                large.append((key, status, f"o{serial + len(large)}"))
                continue
            with open(f"{root}/{key}", "rb", buffering=0) as handle:
                data = handle.read()
            value = hashlib.sha256(hashlib.sha256(data).digest()).hexdigest()
            index[key] = [len(data), status.st_mtime_ns, value, offset]
            pack.write(data)
            offset += len(data)
        pack.flush()
        if fsync:
            os.fsync(pack.fileno())
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(copy, f"{root}/{key}", f"{store}/{name}", None, fsync) for key, _, name in large]
        for (key, status, name), job in zip(large, jobs, strict=True):
            index[key] = [status.st_size, status.st_mtime_ns, job.result(), name]
    with open(f"{store}/index.new", "w") as handle:
        handle.write(json.dumps(index))
        if fsync:
            handle.flush()
            os.fsync(handle.fileno())
    os.replace(f"{store}/index.new", f"{store}/index.json")
    if fsync:
        folder = os.open(store, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def restore(store: str, root: str) -> None:
    with open(f"{store}/index.json") as handle:
        index = json.load(handle)
    for folder in {os.path.dirname(f"{root}/{key}") for key in index}:
        os.makedirs(folder, exist_ok=True)
    pack = os.open(f"{store}/pack", os.O_RDONLY)
    with ThreadPoolExecutor(2) as pool:
        jobs = []
        for key, (size, _, value, where) in index.items():
            if isinstance(where, str):
                jobs.append(pool.submit(copy, f"{store}/{where}", f"{root}/{key}", value, False))
                continue
            data = os.pread(pack, size, where)
            if hashlib.sha256(hashlib.sha256(data).digest()).hexdigest() != value:
                raise SystemExit(f"{key} is corrupt")
            descriptor = os.open(f"{root}/{key}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(descriptor, data)
            os.close(descriptor)
        for job in jobs:
            job.result()


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(sys.argv[2], sys.argv[3], "--fsync" in sys.argv)
    else:
        restore(sys.argv[2], sys.argv[3])
