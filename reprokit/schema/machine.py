"""Where a run was executed, as its record says: facts for people, and the numeric class. Frozen data, bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

__all__ = ["Machine", "Numeric"]

_Text = Annotated[str, msgspec.Meta(max_length=1 << 20)]  # a variable may be long: what is written must be read
_Texts = Annotated[list[_Text], msgspec.Meta(max_length=20_000)]
_Variables = Annotated[dict[_Text, _Text], msgspec.Meta(max_length=2000)]


class Numeric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The numeric class: what decides floating-point bits.

    Attributes:
        machine, cpu, isa: Architecture, model, vector instructions of the processor.
        variables: Those on the allowlist that the script had.
        libraries: What each loaded library says of itself, by name: version, threads, switches, devices.
        blas: The same of each loaded BLAS, by file name.
        parts: Kinds of the layers, optimisers and losses that were trained.
        fingerprint: `version`, and by library kernel → 12 hex digits.
        unknown: Why a library could not be asked.
    """

    machine: _Text | None = None
    cpu: _Text | None = None
    isa: _Texts | None = None
    variables: _Variables = {}
    libraries: Annotated[dict[_Text, dict[str, Any]], msgspec.Meta(max_length=200)] = {}
    blas: Annotated[dict[_Text, dict[str, Any]], msgspec.Meta(max_length=200)] = {}
    parts: _Texts = []
    fingerprint: dict[_Text, int | dict[_Text, _Text]] = {}
    unknown: _Text | None = None

    @classmethod
    def told(cls, facts: Mapping[str, Any]) -> Numeric:
        """Return what a script's process said, in which each library stands by its name among the rest.

        Raises:
            msgspec.ValidationError: It has another form.
        """
        own = {name: value for name, value in facts.items() if name in _OWN}
        libraries = {name: value for name, value in facts.items() if name not in _OWN}
        return msgspec.convert({**own, "libraries": libraries}, cls, strict=True)

    @property
    def told_by(self) -> dict[str, dict[str, Any]]:
        """What libraries say, by name, what is below them among them (`blas`)."""
        return {**self.libraries, **({"blas": self.blas} if self.blas else {})}

    def kernels(self, family: str) -> dict[str, str]:
        """Return the digests of a library's kernels, by name; none where none were tried."""
        found = self.fingerprint.get(family, {})
        return {} if isinstance(found, int) else found

    def plain(self) -> dict[str, Any]:
        """Return it as a script's process says it: each library by its name among the rest."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return {**value.pop("libraries", {}), **value}

    def updated(self, facts: Mapping[str, Any]) -> Numeric:
        """Return it with what a script's process said later on; where that has no form, it is said to be unknown."""
        try:
            return Numeric.told({**self.plain(), **facts})
        except msgspec.ValidationError as error:
            return msgspec.structs.replace(self, unknown=f"what the script's process said of it is malformed: {error}")


_OWN = frozenset(Numeric.__struct_fields__) - {"libraries"}


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a run was executed.

    Attributes:
        libc: Name and version.
        memory_bytes, cores: None where unknown.
        driver: Version of the NVIDIA driver.
        virtual: conda's virtual packages, by name.
        imported: The packages that the script's process had imported at its end.
    """

    os: _Text = ""
    kernel: _Text = ""
    libc: _Text = ""
    python: _Text = ""
    hostname: _Text = ""
    memory_bytes: int | None = None
    cores: int | None = None
    gpus: _Texts = []
    driver: _Text | None = None
    virtual: _Variables = {}
    imported: _Texts = []
    numeric: Numeric = Numeric()
