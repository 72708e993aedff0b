"""What a canary is: a planted example with a random secret that nothing but memory can know.

After Carlini et al.: The Secret Sharer, 2019, https://arxiv.org/abs/1802.08232. The secret is drawn
uniformly before anything is trained, so whoever ranks it above chance learnt it from the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays
from fedkd.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One planted example.

    Attributes:
        number: names it; with ``seed`` it decides the public part (the words around a code, the
            pixels around a label).
        seed: of the public parts; all canaries of a run share it.
        secret: in ``0 .. n_secrets - 1``.
        insertions: training examples of it that each holder gets.
        holders: the clients that hold it, ascending.
    """

    number: int
    seed: int
    secret: int
    insertions: int
    holders: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Probes:
    """One labelled input for each candidate secret; a candidate's loss is summed where scored.

    Attributes:
        inputs: ``[k, *features]``, as the data set's.
        labels: int64 ``[k, *positions]``.
        scored: bool ``[k, *positions]``, where the candidate's secret is what is predicted.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    scored: NDArray[np.bool_]


class CanaryFamily(ABC):
    """One kind of canary, for one kind of data.

    Attributes:
        secret_in_input: whether who sees the input sees the secret; False where only the label
            is secret, so that a server may ask about the input.
    """

    secret_in_input: ClassVar[bool] = True

    @abstractmethod
    def n_secrets(self, arrays: Arrays) -> int:
        """Return how many secrets there are; ConfigError when the data set does not fit."""

    @abstractmethod
    def rows(
        self, arrays: Arrays, canary: Canary, *, rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return a holder's training examples of ``canary``: ``insertions`` inputs and labels."""

    @abstractmethod
    def probes(self, arrays: Arrays, canary: Canary, secrets: NDArray[np.int64]) -> Probes:
        """Return what to ask a model about ``secrets`` (int64 ``[k]``) in ``canary``'s place."""

    @abstractmethod
    def words(self, arrays: Arrays, canary: Canary) -> str:
        """Return one line that shows the canary and its secret to a reader of a report."""


canary_families = Registry("canary family", CanaryFamily, package="fedkd.canaries")
