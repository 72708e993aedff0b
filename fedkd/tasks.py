"""What clients learn to do: the loss on private labels, the metrics, and what a row is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


class Task(ABC):
    """A learning task; every row of scores answers one question of it.

    A model's logits are ``[n, classes]`` or ``[n, positions, classes]``; rows are what is left
    when all axes but the last are laid out one after the other (:func:`as_rows`).

    Attributes:
        n_classes: numbers in a row of scores.
        rows_per_input: rows that one input answers.
    """

    n_classes: int
    rows_per_input: int

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, ``[rows]``, from rows of logits and their labels."""

    @abstractmethod
    def correct(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return bool ``[rows]``: which rows of scores (in any space) give the right answer."""

    @abstractmethod
    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the metrics of at least one row, by name."""


@dataclass(frozen=True)
class Classification(Task):
    """One label an input; a row of scores is about one input."""

    n_classes: int
    rows_per_input: int = 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each row, in nats."""
        return functional.cross_entropy(logits, labels, reduction="none")

    def correct(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compare the largest score with the label."""
        return scores.argmax(dim=1) == labels

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return ``accuracy``, the share of right rows."""
        return {"accuracy": float(self.correct(logits, labels).double().mean())}


@dataclass(frozen=True)
class NextToken(Task):
    """The next token at every position of a sequence; a row is about one position.

    Row ``sequence * rows_per_input + position`` is about the token after that position.
    """

    n_classes: int
    rows_per_input: int

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each position, in nats."""
        return functional.cross_entropy(logits, labels, reduction="none")

    def correct(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compare the likeliest token with the true one."""
        return scores.argmax(dim=1) == labels

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return ``accuracy`` of the likeliest token and ``bits_per_character``, the mean loss."""
        nats = float(self.loss(logits, labels).double().mean())
        right = float(self.correct(logits, labels).double().mean())
        return {"accuracy": right, "bits_per_character": nats / math.log(2)}


def as_rows(values: Tensor) -> Tensor:
    """Return logits ``[n, ..., classes]`` as ``[rows, classes]``."""
    return values.flatten(0, -2)
