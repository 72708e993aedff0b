"""What a protector is: it changes scores before they leave a client, never the choice of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from fedkd.registry import Registry
from fedkd.types import Consensus, Knowledge, ProxySet


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """The public surroundings of an upload that a protector may use."""

    proxy: ProxySet
    consensus: Consensus | None


class Protector(ABC):
    """Applied by the client to whatever knowledge a method made."""

    @abstractmethod
    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return knowledge about the same rows; randomness only from ``rng``."""


protectors = Registry("protector", Protector, package="fedkd.protectors")
