"""The scenario's group ``faults``: what goes wrong between clients and server, and how often."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from annotated_types import Ge, Interval

from fedkd.errors import ConfigError
from fedkd.rng import numpy_stream

Share = Annotated[float, Interval(ge=0, le=1)]
"""The chance of one upload (of one client, for ``straggle``) to be hit."""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """One client raises in one round, before it does any of it."""

    client: Annotated[int, Ge(0)] = 0
    round: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True, kw_only=True)
class Straggle:
    """Some clients are slow, the same ones in every round.

    Attributes:
        share: the chance of a client to be one of them.
        factor: everything takes them so many times as long.
    """

    share: Share = 0.0
    factor: Annotated[float, Ge(1)] = 10.0

    def __post_init__(self) -> None:
        """Refuse a client that never answers; that is a drop."""
        if not math.isfinite(self.factor):
            raise ConfigError(f"factor: {self.factor} is no number of times; use faults.drop")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults of a simulation, drawn anew for every round and client from the scenario's seed.

    They hit the uploads of rounds; set-up and measurements are left alone. Nobody waits: delays
    are on a virtual clock, of which only ``deadline_s`` takes notice. A client whose upload is
    lost trained and spent its privacy all the same.

    Attributes:
        drop: chance that an upload is lost on its way.
        delay_s: the least and the largest delay in virtual seconds, uniform between.
        duplicate: chance that it arrives twice.
        reorder: uploads arrive in a random order, which must not change anything.
        truncate: chance that only the beginning of its bytes arrives.
        corrupt: chance that up to 8 of its bytes arrive changed.
        replay: chance that the client's upload of an earlier round arrives again beside it.
        crash: a client that raises in one round; None for nobody.
        straggle: clients that are slow.
    """

    drop: Share = 0.0
    delay_s: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] = (0.0, 0.0)
    duplicate: Share = 0.0
    reorder: bool = False
    truncate: Share = 0.0
    corrupt: Share = 0.0
    replay: Share = 0.0
    crash: Crash | None = None
    straggle: Straggle | None = None

    def __post_init__(self) -> None:
        """Refuse delays that are no interval."""
        least, most = self.delay_s
        if not (least <= most and math.isfinite(most)):
            raise ConfigError(
                f"delay_s: {list(self.delay_s)} is no least and largest delay; give seconds, such "
                "as [0, 2]"
            )

    @property
    def timed(self) -> bool:
        """Whether any of them takes virtual time."""
        return self.delay_s[1] > 0

    def slowness(self, seed: int, client: int) -> float:
        """Return how many times as long everything takes a client, the same in every round."""
        if self.straggle is None:
            return 1.0
        drawn = numpy_stream(seed, "fault straggle", client=client).random()
        return self.straggle.factor if drawn < self.straggle.share else 1.0


class LatePolicy(StrEnum):
    """What becomes of an upload that comes after the deadline."""

    DROP = "drop"
    """Nothing: the server is not listening any more."""
    NEXT_ROUND = "next_round"
    """It is used in the next round, where its client has given nothing usable by then."""
