"""Kullback-Leibler divergence at a temperature: Hinton et al. 2015, https://arxiv.org/abs/1503.02531."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from fedkd.distillers.base import Distiller, distillers
from fedkd.tasks import probabilities
from fedkd.types import Space


@distillers.register("kl")
@dataclass(frozen=True)
class KL(Distiller):
    """T^2 KL(teacher || softmax(student / T)); the teacher was softened with the same T."""

    space: ClassVar[Space] = Space.PROBS
    temperature: Annotated[float, Gt(0)] = 3.0

    @property
    def teacher_temperature(self) -> float:
        """The student's own temperature."""
        return self.temperature

    def loss(self, student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
        """Return the divergence of each row, in nats, times T^2."""
        student = functional.log_softmax(student_logits / self.temperature, dim=1)
        rows = functional.kl_div(student, teacher_scores, reduction="none").sum(dim=1)
        return self.temperature**2 * rows

    def loss_at(
        self, student_logits: Tensor, teacher_scores: Tensor, temperatures: Tensor
    ) -> Tensor:
        """Return T^2 KL at each row's own T in place of the student's."""
        student = functional.log_softmax(student_logits / temperatures[:, None], dim=1)
        rows = functional.kl_div(student, teacher_scores, reduction="none").sum(dim=1)
        return temperatures**2 * rows

    def slopes(
        self,
        student_logits: Tensor,
        teacher_scores: Tensor,
        weights: Tensor,
        temperatures: Tensor | None = None,
    ) -> Tensor:
        """Return T (softmax(student / T) - teacher) of each row, times its weight."""
        if temperatures is None:
            student, factor = student_logits / self.temperature, weights * self.temperature
        else:
            student, factor = student_logits / temperatures[:, None], weights * temperatures
        total = teacher_scores.sum(dim=1, keepdim=True)  # 1 but for rounding
        difference = probabilities(student).mul_(total).sub_(teacher_scores)
        return difference.mul_(factor[:, None])
