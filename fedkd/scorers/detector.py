"""How much probability lies on classes or symbols that are known to be private, such as digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.protectors.base import Context
from fedkd.scorers.base import Scorer, scorers
from fedkd.types import Knowledge


@scorers.register("detector")
@dataclass(frozen=True)
class Detector(Scorer):
    """The probability mass, at temperature 1, on the classes named; it must be told what is secret.

    Attributes:
        classes: for text, the symbols that secrets are made of. Naming none is refused where the
            scorer is used.
    """

    classes: tuple[Annotated[int, Ge(0)], ...] = ()

    def check(self) -> None:
        """Refuse to run without a class to look for."""
        if not self.classes:
            raise ConfigError(
                "the scorer 'detector' looks for no class; name the private ones, "
                "such as scorer={name: detector, classes: [0, 1]}, or use the scorer confidence"
            )

    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return the mass; ConfigError for no class, or one that does not exist."""
        self.check()
        n_classes = knowledge.scores.shape[1]
        if max(self.classes) >= n_classes:
            raise ConfigError(
                f"classes: {max(self.classes)} is looked for among {n_classes} classes; "
                f"the largest is {n_classes - 1}"
            )
        wanted = torch.tensor(sorted(set(self.classes)), device=knowledge.scores.device)
        mass = torch.softmax(knowledge.scores, dim=1)[:, wanted].sum(dim=1)
        return mass.clamp(max=1)
