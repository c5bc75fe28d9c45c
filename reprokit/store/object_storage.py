"""Object stores (S3 and what speaks like it, Google Cloud, Azure) as storage: the one door to obstore.

The one conditional write is "create" (`If-None-Match: *`). Its answer is not believed on its own: a request that was
sent twice meets its own write, some stores say "conflict" of what does not exist, and an answer may never come. So
whoever is told that something exists reads it back.

Source: RFC 9110, section 13.1.2; Amazon S3 API reference, "Conditional writes" and "Error responses".
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from reprokit.core.terminal_text import printable
from reprokit.errors import RegistryError, UsageError
from reprokit.store.static_storage import StaticStorage
from reprokit.store.storage import Storage, Stored

__all__ = ["ObjectStorage", "open_storage"]


_ATTEMPTS = 8
_PAUSE = 0.05  # seconds, doubled with each attempt, drawn between nothing and that
_LONGEST = 5.0  # seconds
_BROKEN = ("HTTP error", "error sending request", "error decoding response", "body", "timed out")
_TIMEOUTS = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "1h"}  # a slow line is no broken one
_RETRY = {"max_retries": 3, "retry_timeout": timedelta(minutes=2), "backoff": {"max_backoff": timedelta(seconds=5)}}
_BEHIND_THE_END = ("InvalidRange", "Invalid range", "Wanted range starting at", "status code: 416")
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|$)")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_T = TypeVar("_T")

_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (which needs boto3).",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.",
    "https": "What is published so is read without any.",
    "http": "What is published so is read without any.",
}
_MEANINGS: Mapping[str, tuple[str, str]] = {
    "NoSuchBucket": ("there is no such bucket", "Create it, or look for a slip in the address."),
    "ContainerNotFound": ("there is no such container", "Create it, or look for a slip in the address."),
    "InvalidAccessKeyId": ("the access key is not known there", "{credentials}"),
    "SignatureDoesNotMatch": ("the secret does not belong to the access key", "{credentials}"),
    "InvalidBucketName": ("that is no name of a bucket", "Look for a slip in the address."),
    "ExpiredToken": ("the credentials have expired", "Renew them (`aws sso login`, or a new session token)."),
    "ExpiredTokenException": ("the credentials have expired", "Renew them (`aws sso login`, or a new session token)."),
    "TokenRefreshRequired": ("the credentials have expired", "Renew them (`aws sso login`, or a new session token)."),
    "InvalidToken": ("the session token is not valid", "Renew it, or unset AWS_SESSION_TOKEN."),
    "RequestTimeTooSkewed": (
        "the clock of this machine and that of the store differ too much",
        "Set the clock of this machine right (`timedatectl`), and repeat the command.",
    ),
    "AccessDenied": ("these credentials lack the right", "Ask for s3:GetObject, s3:PutObject and s3:ListBucket on it."),
    "PermanentRedirect": ("the bucket is in another region", "Set AWS_REGION to its region."),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "Set AWS_REGION to its region."),
    "IllegalLocationConstraintException": ("the bucket is in another region", "Set AWS_REGION to its region."),
    "SlowDown": ("the store asks for fewer requests", "Wait a while and repeat the command; nothing was lost."),
    "QuotaExceeded": ("there is no room left", "Free some, and repeat the command; nothing was lost."),
    "InsufficientStorage": ("there is no room left", "Free some, and repeat the command; nothing was lost."),
}
_BY_STATUS: Mapping[str, tuple[str, str]] = {
    "301": _MEANINGS["PermanentRedirect"],
    "401": ("the credentials are not accepted", "{credentials}"),
    "403": _MEANINGS["AccessDenied"],
    "429": _MEANINGS["SlowDown"],
    "500": ("the store had an error of its own", "Wait a while and repeat the command; nothing was lost."),
    "503": ("the store is busy, or down", "Wait a while and repeat the command; nothing was lost."),
    "507": _MEANINGS["InsufficientStorage"],
}


def open_storage(url: str) -> Storage:
    """Return what lies at `s3://bucket/prefix`, `gs://…`, `az://…`, `https://…`, or `memory://name` in this process.

    Where to and by whose right is told as the tools of each platform tell it, by variables: AWS_ENDPOINT_URL,
    AWS_REGION, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …

    Raises:
        UsageError: The address names no bucket, or obstore is not installed.
        RegistryError: What the address and the variables say does not go together.
    """
    scheme, _, rest = url.partition("://")
    place = rest.strip("/")
    if not place:
        raise UsageError(f"{url} names no bucket.", hint=f"Write {scheme}://BUCKET or {scheme}://BUCKET/FOLDER.")
    if any(sign in place for sign in "@?#"):
        raise UsageError(
            f"{scheme}://… has one of `@`, `?`, `#`, which no address of a registry has.",
            hint=f"Credentials do not belong into it, since it is written down. {_CREDENTIALS.get(scheme, '')}",
        )
    if find_spec("obstore") is None:
        raise UsageError(
            f"Registries at {scheme}:// need obstore, which is not installed ({url}).",
            hint="Install it: pip install obstore (the extra `s3` of reprokit-runs).",
        )
    import obstore  # an extra, and start-up without a bucket does not pay
    from obstore import store

    clean = f"{scheme}://{place}"
    if scheme == "memory":
        return ObjectStorage(obstore, _MEMORY.setdefault(place, store.MemoryStore()), clean)
    if scheme == "http" and not _LOCAL.match(place):
        raise UsageError(
            f"{clean} is not read: without TLS anybody on the way could show an older registry.",
            hint=f"Use https://{place}, or a server on this machine.",
        )
    options: Any = {"client_options": {**_TIMEOUTS, "allow_http": _plain_http(scheme)}, "retry_config": _RETRY}
    if scheme == "s3" and (provider := _profile()) is not None:
        options["credential_provider"] = provider
    try:
        opened: Any = store.from_url(clean, **options)
    except obstore.exceptions.BaseError as error:
        raise _explained(error, f"Opening {clean}", scheme) from None
    opened_storage = ObjectStorage(obstore, opened, clean)
    return StaticStorage(opened_storage) if scheme in ("https", "http") else opened_storage


class ObjectStorage(Storage):
    """See the module. Safe for several threads."""

    def __init__(self, client: Any, store: Any, url: str) -> None:
        """Use a store.

        Args:
            client: The module `obstore`, or what stands between it and a test.
            store: One of its stores.
        """
        self.url = url
        self._client = client
        self._store = store
        self._errors: tuple[type[Exception], ...] = (client.exceptions.BaseError, OSError)
        self._scheme = url.partition("://")[0]

    def read(self, key: str, *, max_bytes: int) -> bytes:
        def read() -> bytes:
            found = self._client.get(self._store, key)
            if found.meta["size"] > max_bytes:
                return b"".join(_first(found.stream(min_chunk_size=1024 * 1024), max_bytes + 1))
            return bytes(found.bytes())

        return self._do(read, f"Reading {self.name(key)}")

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        def read() -> bytes:
            try:
                return bytes(self._client.get_range(self._store, key, start=offset, length=length))
            except self._errors as error:
                if any(sign in str(error) for sign in _BEHIND_THE_END):
                    return b""  # it begins behind the end
                raise

        return self._do(read, f"Reading {self.name(key)}") if length else b""

    def open(self, key: str) -> AbstractContextManager[_Blocks]:
        return contextlib.nullcontext(_Blocks(self, key))

    def stat(self, key: str) -> Stored | None:
        try:
            found = self._do(lambda: self._client.head(self._store, key), f"Looking for {self.name(key)}")
        except FileNotFoundError:
            return None
        return Stored(key, found["size"], found["last_modified"].timestamp())

    def names(self, folder: str, *, after: str = "") -> list[str]:
        what = f"Listing {self.name(folder)}"
        start = f"{folder}/"
        if after:  # what lies behind is few, and is not asked for by folders
            listed = self._do(
                lambda: list(self._listed(folder, offset=f"{start}{after}")),
                what,
            )
            names = {one.key.removeprefix(start).partition("/")[0] for one in listed}
            return [name for name in names if name > after]
        found = self._do(lambda: self._client.list_with_delimiter(self._store, folder), what)
        names = {path.rstrip("/").removeprefix(start) for path in found["common_prefixes"]}
        return list(names | {meta["path"].removeprefix(start) for meta in found["objects"]})

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        failed = 0
        while True:
            try:
                for stored in self._listed(folder, offset=after):
                    yield stored
                    after, failed = stored.key, 0
            except self._errors as error:
                failed += 1
                told = self._told(error, f"Listing {self.name(folder)}")
                if not isinstance(told, _Passing) or failed >= _ATTEMPTS:
                    raise told from None
                _pause(failed)
            else:
                return

    def _listed(self, folder: str, *, offset: str) -> Iterator[Stored]:
        options = {"offset": offset} if offset else {}
        for batch in self._client.list(self._store, folder, chunk_size=1000, **options):
            for meta in batch:
                if meta["path"] <= offset:
                    continue  # not every store can begin behind a key
                yield Stored(meta["path"], meta["size"], meta["last_modified"].timestamp())

    def create(self, key: str, data: bytes) -> None:
        what = f"Writing {self.name(key)}"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._client.put(self._store, key, data, mode="create", use_multipart=False)
            except self._errors as error:
                told = self._told(error, what)
                # somebody's, or our own, which a request that was sent twice met; or the answer got lost
                if not isinstance(told, FileExistsError | _Passing):
                    raise told from None
                try:
                    there = self.read(key, max_bytes=len(data))
                except FileNotFoundError:
                    if attempt == _ATTEMPTS:
                        raise RegistryError(
                            f"{what} failed: {_ATTEMPTS} times the store did not say that it is done, and it is not.",
                            hint="Repeat the command; nothing was lost.",
                        ) from error
                else:
                    if there == data:
                        return
                    raise FileExistsError(17, "exists", self.name(key)) from None
                _pause(attempt)
            else:
                return

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._do(lambda: self._client.put(self._store, key, data, use_multipart=False), f"Writing {self.name(key)}")

    def put_file(self, key: str, path: Path) -> None:
        """Store a file, in parts if it is large."""
        self._do(lambda: self._client.put(self._store, key, path), f"Writing {self.name(key)}")

    def size_of_version(self, key: str, version: str) -> int | None:
        """Return the length in bytes of what was stored under a key in a version; None if there is no such one."""
        options = {"version": version, "head": True}

        def ask() -> int:
            return int(self._client.get(self._store, key, options=options).meta["size"])

        try:
            return self._do(ask, f"Looking for {self.name(key)}")
        except FileNotFoundError:
            return None

    def read_version(self, key: str, version: str, offset: int, length: int) -> bytes:
        """Return part of what was stored under a key in a version.

        Raises:
            FileNotFoundError: There is no such version.
        """
        options = {"version": version, "range": (offset, offset + length)}

        def read() -> bytes:
            return bytes(self._client.get(self._store, key, options=options).bytes())

        return self._do(read, f"Reading {self.name(key)}") if length else b""

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._do(lambda: self._client.delete(self._store, [key]), f"Removing {self.name(key)}")

    def _do(self, action: Callable[[], _T], what: str) -> _T:
        """Do what can be done again, as often as it fails in passing."""
        attempt = 0
        while True:
            try:
                return action()
            except self._errors as error:
                attempt += 1
                told = self._told(error, what)
                if not isinstance(told, _Passing) or attempt >= _ATTEMPTS:
                    raise told from None
                _pause(attempt)

    def _told(self, error: Exception, what: str) -> Exception:
        """Return an error of the client as what this storage raises."""
        text = str(error)
        if isinstance(error, FileNotFoundError):
            if _code(text) in ("NoSuchBucket", "ContainerNotFound"):
                return _explained(error, what, self._scheme)
            return FileNotFoundError(2, "is not there", what.partition(" ")[2])
        if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
            return FileExistsError(17, "exists", what.partition(" ")[2])
        return _explained(error, what, self._scheme)


class _Passing(RegistryError):
    """What may be gone the next moment: a connection that broke, a store that is busy."""


class _Blocks:
    """What is stored under a key, read in ranges one behind the other."""

    def __init__(self, storage: ObjectStorage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._at = 0
        self._ended = False

    def read(self, size: int, /) -> bytes:
        data = b"" if self._ended else self._storage.read_range(self._key, self._at, size)
        self._at += len(data)
        self._ended = len(data) < size
        return data


_MEMORY: dict[str, Any] = {}


def _profile() -> Any:
    """Return what gives the credentials of a profile, where one is meant: boto3 knows all the ways there are."""
    named = os.environ.get("AWS_PROFILE")
    if os.environ.get("AWS_ACCESS_KEY_ID") or not (named or (Path.home() / ".aws").is_dir()):
        return None
    if find_spec("boto3") is None:
        if named:
            raise UsageError(
                f"AWS_PROFILE is {named!r}, and boto3, which reads profiles, is not installed.",
                hint="Install it: pip install boto3. Or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )
        return None
    from boto3 import Session  # slow to load, and seldom needed
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = Session()
        return Boto3CredentialProvider(session) if session.get_credentials() is not None else None
    except BotoCoreError as error:
        raise RegistryError(f"The AWS profile cannot be used: {error}.", hint=_CREDENTIALS["s3"]) from None


def _plain_http(scheme: str) -> bool:
    """True if the user named an endpoint without TLS: then that is what is meant."""
    if scheme == "gs":
        return _google_endpoint().startswith("http://")
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }.get(scheme, ())
    chosen = next((os.environ[name] for name in names if os.environ.get(name)), "")
    emulated = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true"
    return scheme == "http" or chosen.startswith("http://") or emulated


def _google_endpoint() -> str:
    """Return the endpoint that the file of a service account names, as of an emulator; "" if it names none."""
    file = os.environ.get("GOOGLE_SERVICE_ACCOUNT") or os.environ.get("GOOGLE_SERVICE_ACCOUNT_PATH")
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(Path(file).read_bytes()) if file else None
        return str(told["gcs_base_url"]) if isinstance(told, dict) and "gcs_base_url" in told else ""
    return ""


def _first(blocks: Any, length: int) -> Iterator[bytes]:
    for block in blocks:
        yield bytes(block[:length]) if len(block) > length else bytes(block)
        length -= len(block)
        if length <= 0:
            return


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""


def _explained(error: Exception, what: str, scheme: str) -> RegistryError:
    """Return an error of obstore as one of ours: the store's own code says more than the class."""
    text = str(error)
    code = _code(text)
    status = _STATUS.search(text)
    number = status[1] if status else ""
    credentials = _CREDENTIALS.get(scheme, "")
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return RegistryError(f"{what} failed: no credentials were found.", hint=credentials)
    if "Account must be specified" in text:
        return RegistryError(f"{what} failed: no storage account is named.", hint=credentials)
    meaning = _MEANINGS.get(code) or _BY_STATUS.get(number)
    if meaning is not None:
        kind = _Passing if code == "SlowDown" or number in ("429", "500", "503") else RegistryError
        hint = meaning[1].format(credentials=credentials)
        return kind(f"{what} failed: {meaning[0]} ({code or number}).", hint=hint)
    if any(sign in text for sign in _BROKEN):
        return _Passing(
            f"{what} failed: the store could not be reached, or the connection broke.",
            hint="Look at the network and at the endpoint, and repeat the command; nothing was lost.",
        )
    first = printable(text.partition("\n")[0], 300)
    return RegistryError(f"{what} failed: {first}", hint="Repeat the command; nothing was lost.")


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(_PAUSE * 2**attempt, _LONGEST)))  # noqa: S311
