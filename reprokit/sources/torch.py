"""A `torch.utils.data.Dataset` over the files of a package version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.utils.data

from reprokit.sources import open_source

__all__ = ["Dataset"]


class Dataset(torch.utils.data.Dataset[Any]):  # type: ignore[misc]  # torch is not followed by the checker
    """Map-style: item `n` is the n-th file below `folder`, in the order of keys, as bytes, or what `transform` makes.

        Dataset("vision/cifar10", "train", transform=lambda key, data: (decode(data), labels[key.split("/")[0]]))

    Reads straight from the packs of the registry, each file verified. Works with workers, forked or spawned.

    Args:
        package: `ns/name`, `ns/name:tag`, `ns/name@hash` or an open `Package`; inside a run, a declared input.
        transform: Called with the key (relative to `folder`) and the bytes.
        registry: A registry or its address; the one configured if None.
    """

    def __init__(
        self,
        package: Any,
        folder: str = "",
        *,
        transform: Callable[[str, bytes], Any] | None = None,
        registry: Any = None,
    ) -> None:
        self.source = open_source(package, folder, registry=registry)
        self.transform = transform

    @property
    def keys(self) -> list[str]:
        """The logical keys, relative to the folder, in the order of the items."""
        return self.source.keys

    def __len__(self) -> int:
        return len(self.source.keys)

    def __getitem__(self, number: int) -> Any:
        data = self.source.read(number)
        return data if self.transform is None else self.transform(self.source.keys[number], data)
