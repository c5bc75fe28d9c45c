"""Read the CIFAR-10 images of a folder into NumPy arrays. Makes no folder and downloads nothing.

The folder is what `make_package.py` packs: `train/<class>/<nnnn>.png` and `test/<class>/<nnnn>.png` (JPEG works too).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Arrays", "load"]

type_of_image = (".png", ".jpg", ".jpeg")
side = 32  # pixels

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Arrays = tuple[Images, Labels, Images, Labels]


def load(root: Path, *, images: int) -> Arrays:
    """Return images and labels below `root`, in sorted order of class, then of file name.

    Args:
        root: Folder with `train/` and `test/`, each with one folder per class. May be a symbolic link.
        images: How many to train on at most, and a fifth as many to test on: the first of each class, as many of one
            as of another. 50,000 are all.
    Returns:
        x_train uint8 [N, 32, 32, 3] (height, width, RGB, 0 to 255), y_train int64 [N], x_test, y_test.
        A label is the place of its class among the sorted class names (airplane 0, …, truck 9).
    Raises:
        FileNotFoundError: A folder is missing, or holds nothing to read.
        ValueError: The classes of `train/` and `test/` differ, `images` leaves none to test on, or an image is not
            32 × 32.
    """
    train, test = _classes(root / "train"), _classes(root / "test")
    names, test_names = [folder.name for folder in train], [folder.name for folder in test]
    if names != test_names:
        raise ValueError(f"The classes of {root}/train and {root}/test differ: {names} and {test_names}.")
    of_each = images // len(names)
    if of_each < 5:
        raise ValueError(
            f"images: {images} of {len(names)} classes leave none to test on; expected {5 * len(names)} or more."
        )
    return *_read(train, of_each), *_read(test, of_each // 5)


def _classes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder} (seen from {Path.cwd()}). {_next_step(folder.parent)}")
    found = sorted(item for item in folder.iterdir() if item.is_dir())
    if not found:
        raise FileNotFoundError(f"The folder {folder} holds no class folders. {_next_step(folder.parent)}")
    return found


def _next_step(root: Path) -> str:
    return f"Lay the images out with `reprokit install vision/cifar10 {root}`."


def _read(classes: list[Path], most: int) -> tuple[Images, Labels]:
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = sorted(item for item in folder.iterdir() if item.suffix.lower() in type_of_image)[:most]
        if not found:
            raise FileNotFoundError(f"The folder {folder} holds no PNG or JPEG. {_next_step(folder.parent.parent)}")
        files += found
        labels += [label] * len(found)
    images = np.empty((len(files), side, side, 3), dtype=np.uint8)
    for place, file in enumerate(files):
        with Image.open(file) as image:
            if image.size != (side, side):
                width, height = image.size
                raise ValueError(f"{file} is {width} × {height} pixels; expected {side} × {side}.")
            images[place] = np.asarray(image.convert("RGB"))
    return images, np.array(labels, dtype=np.int64)
