"""What a distiller is: the loss between a student's logits and the consensus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
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

    def slopes(
        self,
        student_logits: Tensor,
        teacher_scores: Tensor,
        weights: Tensor,
        temperatures: Tensor | None = None,
    ) -> Tensor:
        """Return the gradient of the weighed sum of losses, ``[n, classes]``.

        Args:
            student_logits: ``[n, classes]``.
            teacher_scores: ``[n, classes]``.
            weights: ``[n]``, of the rows' losses.
            temperatures: ``[n]``, each row's own, for :meth:`loss_at`; None for :meth:`loss`.
        """
        with torch.enable_grad():
            leaf = student_logits.detach().requires_grad_()
            if temperatures is None:
                losses = self.loss(leaf, teacher_scores)
            else:
                losses = self.loss_at(leaf, teacher_scores, temperatures)
            return torch.autograd.grad((losses * weights).sum(), leaf)[0]


distillers = Registry("distiller", Distiller, package="fedkd.distillers")
