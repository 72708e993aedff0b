"""CIFAR-10: 60,000 color 32x32 pictures, 10 classes (Krizhevsky 2009).

Page: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from fedkd.data.cifar import N_CLASSES, Batch, read_binary, read_pickled
from fedkd.data.datasets.base import (
    Arrays,
    DataSet,
    Presence,
    counts_of,
    datasets,
    presence,
    search_roots,
)
from fedkd.data.images import read_image_folder
from fedkd.data.subset import limited
from fedkd.errors import MissingDataError

_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_ORIGIN = (
    "Get https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz "
    "(MD5 c58f30108f718f92721af3b95e74349a) or cifar-10-binary.tar.gz from the same page"
)


@datasets.register("cifar10")
@dataclass(frozen=True)
class Cifar10(DataSet):
    """50,000 train + 10,000 test, uint8 ``[n, 3, 32, 32]``.

    Reads the first of these that is there: ``<root>/cifar-10-batches-bin/*.bin``,
    ``<root>/cifar-10-batches-py`` (torchvision; never unpickled, see :mod:`fedkd.data.cifar`), a
    picture folder ``<root>/cifar10/train|test/<class>/*.{png,jpg}``, or any of the three layouts
    in ``root`` itself.
    """

    limit: Annotated[int, Ge(1)] | None = None
    root: str | None = None

    def load(self) -> Arrays:
        """Read the pictures; nothing in the files is executed."""
        folder, paths = self._find()
        if not paths:
            return limited(read_image_folder(folder), self.limit)
        pickled = paths[0].suffix != ".bin"
        reader: Callable[[Path], Batch] = read_pickled if pickled else read_binary
        batches = [reader(path) for path in paths]
        arrays = Arrays(
            train_inputs=np.concatenate([images for images, _ in batches[:-1]]),
            train_labels=np.concatenate([labels for _, labels in batches[:-1]]),
            test_inputs=batches[-1][0],
            test_labels=batches[-1][1],
            n_classes=N_CLASSES,
        )
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows and give checksums."""
        return presence(self._describe)

    def _describe(self) -> str:
        counts = counts_of(self.load())
        folder, paths = self._find()
        sums = [
            f"{path.name} {hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
            for path in paths
        ]
        return f"{counts}; {folder}" + (f"; MD5 {', '.join(sums)}" if sums else "")

    def _find(self) -> tuple[Path, list[Path]]:
        """Return the folder and its batch files, test batch last; no files: a picture folder."""
        roots = search_roots(self.root)
        names = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10")
        places = [root / name for root in roots for name in names]
        if self.root is not None:
            places.insert(0, roots[0])
        for place in places:
            if (place / "train").is_dir() and (place / "test").is_dir():
                return place, []
            for suffix in (".bin", ""):
                paths = [place / (name + suffix) for name in _BATCHES]
                absent = [path.name for path in paths if not path.is_file()]
                if not absent:
                    return place, paths
                if len(absent) < len(paths):
                    raise MissingDataError(
                        f"cifar10: missing {', '.join(absent)} in {place}. {_ORIGIN}, and unpack "
                        f"it into {place.parent}"
                    )
        raise MissingDataError(
            f"cifar10: missing cifar-10-batches-bin/{{{','.join(_BATCHES)}}}.bin or "
            f"cifar-10-batches-py/{{{','.join(_BATCHES)}}}. {_ORIGIN}, and unpack it into "
            f"{roots[0]}, or set root or FEDKD_DATA. Looked into: {', '.join(map(str, places))}"
        )
