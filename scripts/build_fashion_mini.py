"""Cut fedkd/data/fashion_mini.npz, the data set inside the package, from full Fashion-MNIST.

Usage: python scripts/build_fashion_mini.py FOLDER, where FOLDER holds the four idx files, with or
without .gz (Debian package dataset-fashion-mnist). The output depends on nothing but their
content, NumPy's random streams and zlib; its sha256 belongs into
fedkd/data/datasets/fashion_mini.py.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.data.datasets.fashion_mnist import SOURCE
from fedkd.data.idx import NAMES, load_set

SEED = 1708_07747
PER_CLASS = {"train": 500, "test": 100}
TARGET = Path(__file__).parents[1] / "fedkd" / "data" / "fashion_mini.npz"

NOTICE = """\
fashion_mini.npz is a subset of Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def chosen(
    labels: NDArray[np.int64], per_class: int, *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return ``per_class`` random rows of each class, ascending."""
    picks = [
        rng.choice(np.flatnonzero(labels == label), size=per_class, replace=False)
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(picks))


def build(folder: str, target: Path) -> str:
    """Write the npz and its licence; return the npz's sha256. SystemExit on other input files."""
    arrays, sums = load_set(SOURCE, folder)
    for name, found, known in zip(NAMES, sums, SOURCE.md5, strict=True):
        if found != known:
            raise SystemExit(f"{name} in {folder}: MD5 {found}, expected {known}")
    rng = np.random.default_rng(SEED)
    train = chosen(arrays.train_labels, PER_CLASS["train"], rng=rng)
    test = chosen(arrays.test_labels, PER_CLASS["test"], rng=rng)
    np.savez_compressed(
        target,
        x_train=arrays.train_inputs[train],
        y_train=arrays.train_labels[train].astype(np.uint8),
        x_test=arrays.test_inputs[test],
        y_test=arrays.test_labels[test].astype(np.uint8),
    )
    target.with_suffix(".LICENSE").write_text(NOTICE, encoding="utf-8")
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="holds the four idx files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=TARGET, help="default: %(default)s")
    args = parser.parse_args()
    sys.stdout.write(f"{args.output}: sha256 {build(args.folder, args.output)}\n")


if __name__ == "__main__":
    main()
