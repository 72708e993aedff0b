"""What a scorer is: it guesses how likely each row of an upload gives something private away."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from fedkd.protectors.base import Context
from fedkd.registry import Registry
from fedkd.types import Knowledge


class Scorer(ABC):
    """Tells a protector which rows to protect most; a guess, never a guarantee.

    Attributes:
        reads_private: True when it looks at private examples beyond the scores it is given. Its
            likelihood is then no post-processing of the model, and no accountant counts it.
    """

    reads_private: ClassVar[bool] = False

    def check(self) -> None:  # noqa: B027 - most scorers need nothing
        """Raise ConfigError when a field still lacks what any use needs."""

    @abstractmethod
    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return float32 ``[n]`` in [0, 1] for knowledge in logits: 1 wants most protection."""


scorers = Registry("scorer", Scorer, package="fedkd.scorers")
