"""What a distiller is: the loss between a student's logits and the consensus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from fedkd.errors import ConfigError
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

    def loss_at(
        self, student_logits: Tensor, teacher_scores: Tensor, temperatures: Tensor
    ) -> Tensor:
        """Return the loss with each row's own teacher temperature, ``[n]``.

        Raises:
            ConfigError: the distiller knows one temperature only.
        """
        raise ConfigError(
            f"the distiller {distillers.name_of(self)!r} cannot follow temperatures told row by "
            "row; use the distiller kl, or server_temperature=agreed"
        )


distillers = Registry("distiller", Distiller, package="fedkd.distillers")
