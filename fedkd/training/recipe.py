"""How a client trains in one round; the same for every method of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from annotated_types import Ge, Gt, Lt


class Order(StrEnum):
    """How a round mixes private examples and the consensus."""

    INTERLEAVED = "interleaved"
    """Every step sums the loss of a private batch and of a proxy batch."""
    SEQUENTIAL = "sequential"
    """First a pass over the consensus, then the private epochs (forgets more)."""


class OptimizerName(StrEnum):
    """Which optimiser each client keeps across rounds."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Local training of one round.

    Attributes:
        order: interleaved or sequential.
        local_epochs: passes over the private data a round. Interleaved training runs on, cycling
            through the private data, until the consensus has been seen once.
        batch_size: rows of a private batch and of a proxy batch.
        optimizer: ``adam`` or ``sgd``; its state stays with the client.
        momentum: of ``sgd``.
        learning_rate: step size.
        ce_weight: weight of the private loss beside the distillation loss, once there is one.
    """

    order: Order = Order.INTERLEAVED
    local_epochs: Annotated[int, Ge(1)] = 1
    batch_size: Annotated[int, Ge(1)] = 64
    optimizer: OptimizerName = OptimizerName.ADAM
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    ce_weight: Annotated[float, Ge(0)] = 0.5
