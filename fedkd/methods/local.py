"""Local training: nobody says anything."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.methods.base import Alone, methods


@methods.register("local")
@dataclass(frozen=True)
class Local(Alone):
    """Control: each client trains on its own examples and sends nothing."""
