"""Centralised training: one model sees all clients' private examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkd.methods.base import Alone, Holding, methods


@methods.register("centralised")
@dataclass(frozen=True)
class Centralised(Alone):
    """Oracle control: one model trained on everybody's private examples, the upper bound.

    No deployment can run it; client 0's architecture is used.
    """

    oracle: ClassVar[bool] = True
    holding: ClassVar[Holding] = Holding.EVERYTHING
