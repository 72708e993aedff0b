"""What a protector is: it changes scores before they leave a client, never the choice of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.privacy.events import Event
from fedkd.registry import Registry
from fedkd.types import Consensus, Knowledge, ProxySet, Space


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """The surroundings of an upload that a protector may use.

    Attributes:
        proxy: the proxy set.
        consensus: the newest consensus, None in round 1.
        temperature: the distiller's teacher temperature: what plain distillation softens with.
        closeness: float32 ``[proxy]`` in [0, 1], how close each proxy row lies to the client's
            private examples. Calling it reads private data; only what declares so may.
    """

    proxy: ProxySet
    consensus: Consensus | None
    temperature: float = 1.0
    closeness: Callable[[], Tensor] | None = None


class Protector(ABC):
    """Applied by the client to whatever knowledge a method made.

    Attributes:
        keeps_logits: what goes in as logits comes out as logits; False when it makes
            probabilities, so that no distiller that reads logits can follow.
    """

    keeps_logits: ClassVar[bool] = True

    @abstractmethod
    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return knowledge about the same rows; randomness only from ``rng``."""

    @abstractmethod
    def event(self, *, n_rows: int) -> Event:
        """Return what one upload about at most ``n_rows`` rows tells about a whole client."""


def softened(knowledge: Knowledge, *, temperature: float) -> Knowledge:
    """Return knowledge as probabilities at a temperature; probabilities pass unchanged."""
    if knowledge.space is Space.PROBS:
        return knowledge
    scores = torch.softmax(knowledge.scores / temperature, dim=1)
    return replace(knowledge, scores=scores, space=Space.PROBS, temperature=temperature)


protectors = Registry("protector", Protector, package="fedkd.protectors")
