"""MNIST: 70,000 grey 28x28 pictures of handwritten digits (LeCun et al. 1998).

Page: http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.idx import NAMES, IdxSource, checksum_report, load_set
from fedkd.data.subset import limited

_MD5_OF_GZ = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
"""As torchvision pins them; sums of the official .gz files, not of their content."""

SOURCE = IdxSource(
    name="mnist",
    folders=("MNIST/raw",),
    origin="http://yann.lecun.com/exdb/mnist/ or https://ossci-datasets.s3.amazonaws.com/mnist/ "
    f"({', '.join(name + '.gz' for name in NAMES)})",
    checksums="MD5 of the official .gz files: "
    + ", ".join(f"{name}.gz {md5}" for name, md5 in zip(NAMES, _MD5_OF_GZ, strict=True)),
)


@datasets.register("mnist")
@dataclass(frozen=True)
class Mnist(DataSet):
    """60,000 train + 10,000 test, uint8 ``[n, 1, 28, 28]``.

    Reads ``<root>/MNIST/raw`` (torchvision), or the files in ``root`` itself, each with or
    without ``.gz``.
    """

    limit: Annotated[int, Ge(1)] | None = None
    root: str | None = None

    def load(self) -> Arrays:
        """Read the four idx files."""
        arrays, _ = load_set(SOURCE, self.root)
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows and give checksums."""
        return presence(self._describe)

    def _describe(self) -> str:
        arrays, sums = load_set(SOURCE, self.root)
        return f"{counts_of(limited(arrays, self.limit))}; {checksum_report(SOURCE, sums)}"
