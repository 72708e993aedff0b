"""Reading a folder of pictures laid out as ``train|test/<class>/*.{png,jpg}``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def read_image_folder(folder: Path) -> Arrays:
    """Read all pictures as RGB; class numbers follow the sorted names of the class folders.

    Raises:
        ConfigError: no Pillow, no pictures, an unreadable picture, pictures of different sizes,
            or a test class that has no training folder.
    """
    classes = sorted(place.name for place in (folder / "train").iterdir() if place.is_dir())
    extra = {place.name for place in (folder / "test").iterdir() if place.is_dir()} - set(classes)
    if extra:
        raise ConfigError(f"{folder / 'test'}: no training folder for class {min(extra)!r}")
    train_inputs, train_labels = _read_part(folder / "train", classes)
    test_inputs, test_labels = _read_part(folder / "test", classes)
    if train_inputs.shape[1:] != test_inputs.shape[1:]:
        raise ConfigError(
            f"{folder}: training pictures are {train_inputs.shape[1:]}, test pictures "
            f"{test_inputs.shape[1:]}; resize them to one size"
        )
    return Arrays(
        train_inputs=train_inputs,
        train_labels=train_labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        n_classes=len(classes),
    )


def _read_part(folder: Path, classes: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*")):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            images.append(_read_picture(path))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise ConfigError(
                    f"{path}: is {images[-1].shape}, earlier ones are {images[0].shape} "
                    "(channels, height, width); resize them to one size"
                )
    if not images:
        raise ConfigError(f"{folder}: no .png or .jpg in folders {', '.join(classes) or '(none)'}")
    return np.stack(images), np.array(labels, dtype=np.int64)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError(f"{path}: pictures need Pillow; 'pip install pillow'") from None
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{path}: not a readable picture ({error})") from None
    return pixels.transpose(2, 0, 1)
