"""Fashion-MNIST: 70,000 grey 28x28 pictures of clothes, 10 classes (Xiao et al. 2017).

Paper: https://arxiv.org/abs/1708.07747.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.idx import NAMES, IdxSource, checksum_report, load_set
from fedkd.data.subset import limited

_MD5 = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a",
    "15d484375f8d13e6eb1aabb0c3f46965",
)

SOURCE = IdxSource(
    name="fashion_mnist",
    folders=("FashionMNIST/raw", "fashion-mnist"),
    origin="'apt-get install dataset-fashion-mnist' (Debian; lands in /usr/share/datasets and "
    "needs no copying), or https://github.com/zalandoresearch/fashion-mnist",
    checksums="MD5 once uncompressed: "
    + ", ".join(f"{name} {md5}" for name, md5 in zip(NAMES, _MD5, strict=True)),
    md5=_MD5,
)


@datasets.register("fashion_mnist")
@dataclass(frozen=True)
class FashionMnist(DataSet):
    """The full set: 60,000 train + 10,000 test, uint8 ``[n, 1, 28, 28]``. MIT, Zalando SE.

    Reads ``<root>/FashionMNIST/raw`` (torchvision), ``<root>/fashion-mnist`` (Debian), or the
    files in ``root`` itself, each with or without ``.gz``.
    """

    limit: Annotated[int, Ge(1)] | None = None
    root: str | None = None

    def load(self) -> Arrays:
        """Read the four idx files."""
        arrays, _ = load_set(SOURCE, self.root)
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows and compare checksums."""
        return presence(self._describe)

    def _describe(self) -> str:
        arrays, sums = load_set(SOURCE, self.root)
        return f"{counts_of(limited(arrays, self.limit))}; {checksum_report(SOURCE, sums)}"
