"""What a distiller is: the loss between a student's logits and the consensus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from fedkd.registry import Registry
from fedkd.types import Space


class Distiller(ABC):
    """Says what a consensus must be, and how far from it a student is."""

    space: ClassVar[Space]
    """What the teacher's scores must be; a method uploads in this space."""

    @property
    @abstractmethod
    def teacher_temperature(self) -> float:
        """The temperature the teacher's scores are softened with; 1 for logits."""

    @abstractmethod
    def loss(self, student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
        """Return the loss of each row, ``[n]``, from two ``[n, classes]`` tensors."""


distillers = Registry("distiller", Distiller, package="fedkd.distillers")
