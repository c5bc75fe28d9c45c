"""Errors of object stores as a user is told them, and answers that are not believed."""

import uuid
from typing import Any

import pytest

from reprokit.errors import RegistryError, UsageError
from reprokit.store import object_storage
from reprokit.store.object_storage import ObjectStorage, open_storage
from tests.object_stores import KEY, Server, free_port


def told(monkeypatch: pytest.MonkeyPatch, url: str = "s3://bucket/x", **variables: str) -> tuple[str, str | None]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RegistryError) as caught:
        open_storage(url).read("key", max_bytes=9)
    return caught.value.message, caught.value.hint


def test_what_is_wrong_with_credentials_and_buckets_is_named(weed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.used_by(monkeypatch)
    set_them = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (which needs boto3)."
    missing = told(monkeypatch, "s3://nowhere/x")
    assert missing[0] == "Reading s3://nowhere/x/key failed: there is no such bucket (NoSuchBucket)."
    assert told(monkeypatch, AWS_SECRET_ACCESS_KEY=KEY) == (
        "Reading s3://bucket/x/key failed: the secret does not belong to the access key (SignatureDoesNotMatch).",
        set_them,
    )
    assert told(monkeypatch, AWS_ACCESS_KEY_ID="AKIDUNKNOWN") == (
        "Reading s3://bucket/x/key failed: the access key is not known there (InvalidAccessKeyId).",
        set_them,
    )


def test_a_store_that_cannot_be_reached_is_named_soon(weed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.used_by(monkeypatch)
    monkeypatch.setattr(object_storage, "_ATTEMPTS", 2)
    message, hint = told(monkeypatch, AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    assert message == "Reading s3://bucket/x/key failed: the store could not be reached, or the connection broke."
    assert hint == "Look at the network and at the endpoint, and repeat the command; nothing was lost."


@pytest.mark.parametrize("code", sorted(object_storage._MEANINGS))
def test_every_code_has_a_meaning_and_a_hint(code: str) -> None:
    error = OSError(f"Server returned non-2xx status code: 403 Forbidden: <Error><Code>{code}</Code></Error>")
    found = object_storage._explained(error, "Reading s3://b/k", "s3")
    assert found.message.endswith(f" ({code}).")
    assert found.hint is not None
    assert "{" not in found.hint


@pytest.mark.parametrize("url", ["s3://", "s3:///", "gs://", "memory://"])
def test_an_address_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_storage(url)
    assert caught.value.message == f"{url} names no bucket."


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    who = "AKID:topsecret"
    with pytest.raises(UsageError) as caught:
        open_storage(f"s3://{who}@bucket/x")
    assert "topsecret" not in str(caught.value)
    assert "Credentials do not belong into it" in str(caught.value.hint)


def test_azure_without_an_account_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(RegistryError) as caught:
        open_storage("az://container/x")
    assert caught.value.message == "Opening az://container/x failed: no storage account is named."


class Answers:
    """Stands between a storage and obstore, and answers a creation as it is told to."""

    def __init__(self, client: Any, *answers: str) -> None:
        self._client = client
        self._answers = list(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put(self, store: Any, key: str, data: bytes, **options: Any) -> Any:
        answer = self._answers.pop(0) if options.get("mode") == "create" and self._answers else "yes"
        if answer in ("yes", "stored, exists", "stored, lost"):
            self._client.put(store, key, data, **options)
        if answer.endswith("exists"):
            raise self._client.exceptions.AlreadyExistsError("409 Conflict")
        if answer.endswith("lost"):
            raise self._client.exceptions.GenericError("HTTP error: error sending request")


@pytest.mark.parametrize(
    "answers",
    [
        ("stored, exists",),  # our own write, met again by a request that was sent twice
        ("stored, lost",),
        ("exists",),  # a conflict of what is not there
        ("lost", "exists", "lost"),
    ],
)
def test_a_creation_is_done_once_whatever_the_answer(answers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_storage, "_PAUSE", 0.0)
    real = open_storage(f"memory://{uuid.uuid4()}")
    ObjectStorage(Answers(real._client, *answers), real._store, real.url).create("log/1", b"ours")
    assert real.read("log/1", max_bytes=9) == b"ours"
    with pytest.raises(FileExistsError):
        real.create("log/1", b"other")
    assert real.read("log/1", max_bytes=9) == b"ours"


def test_a_creation_that_never_succeeds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_storage, "_PAUSE", 0.0)
    real = open_storage(f"memory://{uuid.uuid4()}")
    storage = ObjectStorage(Answers(real._client, *["exists"] * 99), real._store, real.url)
    with pytest.raises(RegistryError) as caught:
        storage.create("log/1", b"ours")
    assert "8 times the store did not say that it is done, and it is not" in caught.value.message
