"""What a run's processes may say to its runner, a frame each. Parsed strictly: a script may say anything."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from reprokit.core.safe_json import check_text, load_json
from reprokit.errors import DataMismatchError
from reprokit.schema.facts import Metrics, Name

__all__ = [
    "MAX_FRAME",
    "Artifact",
    "Batch",
    "Epoch",
    "Epochs",
    "HandedOver",
    "LoggedMetrics",
    "Lost",
    "Message",
    "NumericFacts",
    "Resumed",
    "Told",
    "message_in",
    "value_in",
]

MAX_FRAME = 256 * 1024 * 1024  # bytes
_DEPTH = 64
_WHAT = "A message to the runner"

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1 << 16)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What is said.

    Attributes:
        answer: An answer is waited for.
        ticket: Comes back with it.
    """

    answer: bool = False
    ticket: int | None = None


class LoggedMetrics(Message, frozen=True, kw_only=True, tag="metrics"):
    """Metrics, at a step."""

    step: int | None = None
    values: Metrics


class Epochs(Message, frozen=True, kw_only=True, tag="epochs"):
    """How many epochs will be trained."""

    total: _Count


class Epoch(Message, frozen=True, kw_only=True, tag="epoch"):
    """An epoch, counted from 0, is done."""

    epoch: int


class Batch(Message, frozen=True, kw_only=True, tag="batch"):
    """So many batches of an epoch are done, of so many. Some are said, not all."""

    epoch: _Count | None = None
    batch: _Count
    total: _Count | None = None


class Artifact(Message, frozen=True, kw_only=True, tag="artifact"):
    """A file is to be kept."""

    path: _Path
    name: Name


class Resumed(Message, frozen=True, kw_only=True, tag="resumed"):
    """The checkpoint that was given is restored."""

    numeric: dict[str, Any] = {}


class Lost(Message, frozen=True, kw_only=True, tag="lost"):
    """These variables of the script do not hold what they held when the restored checkpoint was saved."""

    names: Annotated[list[Name], msgspec.Meta(max_length=10_000)]


class NumericFacts(Message, frozen=True, kw_only=True, tag="numeric"):
    """What a process says at its end; `saved`: it talked to the runner before."""

    numeric: dict[str, Any]
    imported: list[str]
    files: list[str] = []
    saved: bool = False


class Told(Message, frozen=True, kw_only=True, tag="told"):
    """The script learnt of every error."""


class HandedOver(Message, frozen=True, kw_only=True, tag="snapshot"):
    """A snapshot lies in shared memory of `size` bytes; what it is stands there at `offset`, `length` bytes of JSON."""

    buffer: _Count
    size: _Count
    offset: _Count
    length: _Count


_AnyMessage = LoggedMetrics | Epochs | Epoch | Batch | Artifact | Resumed | Lost | NumericFacts | Told | HandedOver


def value_in(frame: bytes) -> dict[str, Any]:
    """Return the JSON object that a frame holds; whether it is a message is for `message_in` to say.

    Raises:
        DataMismatchError: It holds none.
    """
    value = load_json(frame, what=_WHAT, max_bytes=MAX_FRAME, max_depth=_DEPTH, constants=True, halves=True)
    if not isinstance(value, dict):
        raise DataMismatchError(f"{_WHAT} is no JSON object.")
    return value


def message_in(value: Any) -> Message:
    """Return what the value of a frame says.

    Raises:
        DataMismatchError: It is no message.
    """
    check_text(value, what=_WHAT)
    try:
        message: Message = msgspec.convert(value, _AnyMessage, strict=True)
    except msgspec.ValidationError as error:
        raise DataMismatchError(f"{_WHAT} is malformed: {error}.") from None
    return message
