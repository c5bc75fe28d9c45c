"""Download one file over HTTP, resumably, and check its MD5. Knows nothing of what the file holds."""

import hashlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

__all__ = ["DownloadError", "download", "md5_of"]

chunk = 1 << 20  # bytes read at a time
timeout = 30.0  # seconds without a byte
patience = 4  # attempts in a row which bring no byte


class DownloadError(Exception):
    """The file could not be had; the message says what to do."""


def download(url: str, target: Path, *, md5: str) -> Path:
    """Make `target` the file at `url`, and return it. Bytes go to `target.part` until their MD5 is right.

    What an earlier attempt left in `target.part` is continued with a Range request; a server that ignores Range
    sends all of it again. A connection lost on the way is taken up again by itself.

    Args:
        url: `http://` or `https://`.
        md5: 32 hex digits. MD5 is what the publisher states: it tells damage, not forgery.
    Raises:
        DownloadError: No network, a refusal of the server, or bytes that are not the expected ones.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"Cannot download {url}: expected an address with http:// or https://.")
    if target.exists():
        if (found := md5_of(target)) != md5:
            raise DownloadError(f"{target} has md5 {found}, expected {md5}. Delete it, and run this again.")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = _size(part) > 0
    _complete(url, part)
    if resumed and md5_of(part) != md5:  # the leftover may be of another file, so begin once more without it
        print(f"{part} was continued, and is not what was expected: starting over", file=sys.stderr)
        part.unlink()
        _complete(url, part)
    if (found := md5_of(part)) != md5:
        part.unlink()
        raise DownloadError(
            f"{url} sent a file with md5 {found}, expected {md5}; it was deleted. "
            "Get the archive in another way, and pass it with --from PATH."
        )
    part.replace(target)
    return target


def md5_of(path: Path) -> str:
    """Return the MD5 of a file as 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(url: str, part: Path) -> None:
    """Repeat requests until `part` has the length the server states, or no attempt brings a byte."""
    failures = 0
    while True:
        before, problem = _size(part), ""
        try:
            if _request(url, part):
                return
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise DownloadError(f"{url} answered {error.code} {error.reason}. {_instead(part)}") from error
            problem = f"the server answered {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if _size(part) > before else failures + 1
        if failures == patience:
            raise DownloadError(f"Cannot download {url}: {problem}. {_instead(part)}")
        print(f"{problem}; trying again from byte {_size(part):,}", file=sys.stderr)
        time.sleep(failures)


def _instead(part: Path) -> str:
    kept = f"{part} keeps the first {_size(part):,} bytes for the next attempt. " if _size(part) else ""
    return f"{kept}Without a network, bring the archive or a folder of images here and pass it with --from PATH."


def _request(url: str, part: Path) -> bool:
    """Ask once for what `part` lacks and write it. True if the file is as long as the server says it is."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310  # download() checks
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing lies beyond what we have: the MD5 decides whether it is right
            return True
        raise
    with response:
        if response.status == 206:
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not place or int(place[1]) != have:
                part.unlink()  # an answer to another question: begin again rather than join what does not fit
                return False
            total, mode = int(place[2]), "ab"
        else:
            length = response.headers.get("Content-Length", "")
            have, total, mode = 0, int(length) if length.isdecimal() else 0, "wb"
        shown = 0
        with part.open(mode) as file:
            while block := response.read(chunk):
                file.write(block)
                have += len(block)
                if total and (percent := 100 * have // total) >= shown + 5:
                    shown = percent
                    print(f"downloaded {have / 1e6:.1f} of {total / 1e6:.1f} MB ({percent} %)", file=sys.stderr)
    return have == total or not total
