"""The scripts of others are those that are named beside them, and few."""

from __future__ import annotations

import gzip
import re
from hashlib import sha256

from tests.conftest import ROOT

VENDOR = ROOT / "reprokit" / "web" / "static" / "vendor"
_ROW = re.compile(r"^\| `(\S+)` \| \S+ [\d.]+ \| \[\S+\]\((\S+)\) \| `([0-9a-f]{64})` \|$", re.MULTILINE)


def test_each_is_what_its_row_says_and_has_its_licence() -> None:
    rows = _ROW.findall((VENDOR / "README.md").read_text())
    files = {file.name for file in VENDOR.iterdir() if file.suffix in (".js", ".css")}
    assert {name for name, _, _ in rows} == files
    for name, licence, digest in rows:
        assert sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
        assert "Copyright" in (VENDOR / licence).read_text() or "Permission to use" in (VENDOR / licence).read_text()


def test_all_of_them_are_60_kb_on_their_way() -> None:
    assert sum(len(gzip.compress(file.read_bytes(), 9)) for file in VENDOR.glob("*.[jc]s*")) < 60_000
