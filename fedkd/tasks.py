"""What clients learn to do: the loss on private labels, the metrics, and what a row is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
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

    def slopes(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient of the weighed sum of losses, ``[rows, classes]``.

        Args:
            logits: ``[rows, classes]``.
            labels: of the rows.
            weights: ``[rows]``, of their losses.
        """
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            weighed = (self.loss(leaf, labels) * weights).sum()
            return torch.autograd.grad(weighed, leaf)[0]

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

    def slopes(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Take one from the right class's probability."""
        return _cross_entropy_slopes(logits, labels, weights)

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

    def slopes(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Take one from the right token's probability."""
        return _cross_entropy_slopes(logits, labels, weights)

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


def _cross_entropy_slopes(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    minus_one = logits.new_full((), -1.0).expand(len(logits), 1)
    slopes = probabilities(logits).scatter_add_(1, labels[:, None], minus_one)
    return slopes.mul_(weights[:, None])


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of each row, whatever the other rows are, and with the same bits.

    Along few numbers, torch's is slow on a CPU; impossible classes make them enough.
    """
    n_rows, n_classes = logits.shape
    if logits.is_cuda or n_classes >= _FEW_CLASSES:
        return logits.softmax(dim=1)
    wide = logits.new_full((n_rows, _FEW_CLASSES), -torch.inf)
    wide[:, :n_classes] = logits
    return wide.softmax(dim=1)[:, :n_classes]


_FEW_CLASSES = 16
"""Fewer numbers than a row of which torch takes many at a time."""
