"""What a scenario asks of formal privacy: a budget, and DP-SGD to keep it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt


class ServerView(StrEnum):
    """What the server sees of the clients' knowledge."""

    UPLOADS = "uploads"
    """Every client's upload."""
    SUMS = "sums"
    """Only sums over clients, through pairwise masks."""


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The formal side of a run; every number here is public.

    Attributes:
        target_epsilon: no client's epsilon exceeds it; None sets no limit.
        delta: the delta at which epsilons are stated.
        dp_sgd: clients touch private examples through DP-SGD alone.
        noise_multiplier: standard deviation of DP-SGD's noise over the clip norm; None is worked
            out from ``target_epsilon`` for the whole run.
        clip_norm: L2 norm to which one example's gradient is clipped.
        sampling_probability: chance of an example to be in a step's batch. A local epoch is
            ``round(1 / sampling_probability)`` steps, and gradients are divided by
            ``training.batch_size``, so that neither depends on how many examples a client has.
    """

    target_epsilon: Annotated[float, Gt(0)] | None = None
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5
    dp_sgd: bool = False
    noise_multiplier: Annotated[float, Ge(0)] | None = None
    clip_norm: Annotated[float, Gt(0)] = 1.0
    sampling_probability: Annotated[float, Gt(0), Le(1)] = 0.1

    def steps_per_epoch(self) -> int:
        """Return the DP-SGD steps of one local epoch."""
        return max(1, round(1 / self.sampling_probability))
