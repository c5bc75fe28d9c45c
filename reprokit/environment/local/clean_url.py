"""Addresses of archives, as they may be written into a record: without what is secret in them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

__all__ = ["clean_url"]

_TOKEN = re.compile(r"\A/t/[^/]+(?=/)")  # conda's way to write a token into a channel's address
_WRITABLE = re.compile(r"\A[!-~]+\Z")


def clean_url(url: str) -> str | None:
    """Return an address without credentials, tokens, query and fragment; None if it is none that can be fetched."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        cleaned = urlunsplit((parts.scheme, host, _TOKEN.sub("", parts.path), "", ""))
    except ValueError:
        return None
    return cleaned if parts.scheme in ("http", "https", "ssh", "file") and _WRITABLE.fullmatch(cleaned) else None
