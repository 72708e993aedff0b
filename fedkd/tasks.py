"""What clients learn to do: the loss on private labels, the metric, and what a row is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


class Task(ABC):
    """A learning task; every row of scores answers one question of it."""

    n_classes: int

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, ``[n]``."""

    @abstractmethod
    def correct(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return bool ``[n]``: which rows of scores (in any space) give the right answer."""


@dataclass(frozen=True)
class Classification(Task):
    """One label an input; a row of scores is about one input."""

    n_classes: int

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each row, in nats."""
        return functional.cross_entropy(logits, labels, reduction="none")

    def correct(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compare the largest score with the label."""
        return scores.argmax(dim=1) == labels
