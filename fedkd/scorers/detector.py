"""How much probability lies on classes or symbols that are known to be private, such as digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedkd.data.characters import ALPHABET, codes
from fedkd.errors import ConfigError
from fedkd.protectors.base import Context
from fedkd.scorers.base import Scorer, scorers
from fedkd.types import Knowledge


@scorers.register("detector")
@dataclass(frozen=True)
class Detector(Scorer):
    """The probability mass, at temperature 1, on the classes named; it must be told what is secret.

    Attributes:
        classes: numbers of classes. Naming neither classes nor symbols is refused where the
            scorer is used.
        symbols: for text, the characters that secrets are made of, such as ``"0123456789#"``.
        sharpness: likelihood = mass^sharpness. A model at the start of training spreads some mass
            over everything; at 1 a protector softens all rows then, students learn that softness,
            and text models get worse with every round. At 4 a mass of 0.1 is a likelihood of
            0.0001, one of 0.95 is 0.8.
    """

    classes: tuple[Annotated[int, Ge(0)], ...] = ()
    symbols: str = ""
    sharpness: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        """Refuse symbols that no text data set has."""
        try:
            codes(self.symbols)
        except ConfigError as error:
            raise ConfigError(f"symbols: {error}") from None

    def check(self) -> None:
        """Refuse to run without a class to look for."""
        if not self.classes and not self.symbols:
            raise ConfigError(
                "the scorer 'detector' looks for no class; name the private ones, such as "
                "scorer={name: detector, classes: [0, 1]}, for text {name: detector, symbols: "
                "'0123456789'}, or use the scorer confidence"
            )

    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return the mass; ConfigError for no class, or one that does not exist."""
        self.check()
        n_classes = knowledge.scores.shape[1]
        if self.symbols and n_classes != len(ALPHABET):
            raise ConfigError(
                f"symbols: {self.symbols!r} are characters of a text with {len(ALPHABET)} "
                f"characters, but there are {n_classes} classes; name classes by their numbers"
            )
        named = {*self.classes, *codes(self.symbols).tolist()}
        if max(named) >= n_classes:
            raise ConfigError(
                f"classes: {max(named)} is looked for among {n_classes} classes; "
                f"the largest is {n_classes - 1}"
            )
        wanted = torch.tensor(sorted(named), device=knowledge.scores.device)
        mass = torch.softmax(knowledge.scores, dim=1)[:, wanted].sum(dim=1)
        return mass.clamp(max=1) ** self.sharpness
