"""Mean absolute error on raw logits, the digest loss of FedMD's released code (Li & Wang 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedkd.distillers.base import Distiller, distillers
from fedkd.types import Space


@distillers.register("mae")
@dataclass(frozen=True)
class MAE(Distiller):
    """|student - teacher| on logits, mean over classes; one loud client can move it."""

    space: ClassVar[Space] = Space.LOGITS

    @property
    def teacher_temperature(self) -> float:
        """Logits are sent as they are."""
        return 1.0

    def loss(self, student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
        """Return the mean absolute difference of each row."""
        return (student_logits - teacher_scores).abs().mean(dim=1)
