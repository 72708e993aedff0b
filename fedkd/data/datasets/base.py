"""What a data set is: labelled training examples to share out, and a test set the server holds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.registry import Registry
from fedkd.tasks import Classification, NextToken, Task


@dataclass(frozen=True, eq=False, kw_only=True)
class Arrays:
    """A data set in memory.

    Attributes:
        train_inputs: ``[n, channels, height, width]`` uint8 images (0..255), or float32 of any
            shape ``[n, ...]``, used as it is.
        train_labels: int64 ``[n]`` in ``0 .. n_classes - 1``; for sequences, whose inputs are
            int16 tokens ``[n, positions]``, the next token at every position, ``[n, positions]``.
        test_inputs: the same for the test set.
        test_labels: int64 ``[n_test]``, or ``[n_test, positions]``.
        n_classes: number of classes, or of tokens.
        strata: int64 ``[n]``, what rows are shared out and spread by (a text's author); None
            takes the labels.
        words: names of the classes or tokens, where the data set has them.
    """

    train_inputs: NDArray[np.generic]
    train_labels: NDArray[np.int64]
    test_inputs: NDArray[np.generic]
    test_labels: NDArray[np.int64]
    n_classes: int
    strata: NDArray[np.int64] | None = None
    words: tuple[str, ...] = ()

    @property
    def groups(self) -> NDArray[np.int64]:
        """What partitioners and proxy sources see of the training rows, int64 ``[n]``."""
        return self.train_labels if self.strata is None else self.strata

    @property
    def task(self) -> Task:
        """What a model of this data learns: the class of an input, or the next token."""
        if self.train_labels.ndim == 1:
            return Classification(self.n_classes)
        return NextToken(self.n_classes, self.train_labels.shape[1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.train_inputs.shape[1:]


@dataclass(frozen=True)
class Presence:
    """Whether a data set can be used here, for ``fedkd data check``."""

    present: bool
    detail: str
    """Counts and checksums when present; otherwise what to download, and into which folder."""


class DataSet(ABC):
    """A source of labelled examples. Never downloads anything.

    Every data set has the field ``limit``: the size of a class-balanced subset of the training
    rows, for quick runs, or None for all. Those that read files have ``root``: where to look.

    Attributes:
        tokens: inputs are sequences of tokens, and a label is the next one at every position.
    """

    tokens: ClassVar[bool] = False

    @abstractmethod
    def load(self) -> Arrays:
        """Read the data set; MissingDataError or ConfigError when it cannot be read."""

    @abstractmethod
    def check(self) -> Presence:
        """Say whether the data set is present, without raising."""


datasets = Registry("data set", DataSet, package="fedkd.data.datasets")

SYSTEM_FOLDER = Path("/usr/share/datasets")
"""Where Debian's data set packages put their files."""


def search_roots(root: str | None) -> list[Path]:
    """Return the folders in which files of a data set are looked for, most specific first."""
    named = [root, os.environ.get("FEDKD_DATA")]
    return [Path(place).expanduser() for place in named if place] + [
        Path.home() / ".cache" / "fedkd",
        SYSTEM_FOLDER,
    ]


def presence(describe: Callable[[], str]) -> Presence:
    """Return what ``describe`` says, or, when it raises, the message of its error.

    Catches everything: ``fedkd data check`` walks over all data sets and must outlive each one.
    """
    try:
        return Presence(present=True, detail=describe())
    except Exception as error:
        return Presence(present=False, detail=str(error) or type(error).__name__)


def counts_of(arrays: Arrays) -> str:
    """Return for example ``"1500 train, 297 test, 10 classes, uint8 [1, 8, 8]"``."""
    kind = f"{arrays.train_inputs.dtype} {list(arrays.input_shape)}"
    sizes = f"{len(arrays.train_labels)} train, {len(arrays.test_labels)} test"
    return f"{sizes}, {arrays.n_classes} classes, {kind}"
