"""What a simulated device is: how fast it computes and sends, what that takes, and when it is on.

Nothing is waited for: a clock works out from these figures and from what a client really did (work
of its model, bytes of its messages) how long the round would have taken, and how much energy.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from fedkd.errors import ConfigError
from fedkd.registry import Registry
from fedkd.rng import numpy_stream

Figure = Annotated[float, Gt(0)]
Power = Annotated[float, Ge(0)]
BITS = 8


@dataclass(frozen=True, kw_only=True)
class Availability:
    """In which rounds a device is on: by chance, or by a list.

    By chance it is on for ``on_rounds`` rounds at a stretch, on average, and off in between for as
    long as makes ``on_share`` of all rounds; each client's sequence is drawn for itself.

    Attributes:
        on_share: share of the rounds in which it is on, in the long run.
        on_rounds: mean length of a stretch.
        trace: whether it is on in rounds 1, 2, ..., over and over; takes the place of chance.
    """

    on_share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    on_rounds: Annotated[float, Ge(1)] = 10.0
    trace: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        """Refuse stretches so short that being off could not make up for them."""
        if self.on_share < 1 and self._comes_on() > 1:
            least = self.on_share / (1 - self.on_share)
            raise ConfigError(
                f"on_rounds: {self.on_rounds} rounds at a stretch are too few for "
                f"on_share={self.on_share}; give {least:.3g} or more"
            )

    def is_on(self, seed: int, *, client: int, round: int) -> bool:
        """Return whether a client's device is on in a round, from 1."""
        if self.trace:
            return self.trace[(round - 1) % len(self.trace)]
        if self.on_share == 1:
            return True
        drawn = numpy_stream(seed, "device availability", client=client).random(round)
        on = bool(drawn[0] < self.on_share)
        for chance in drawn[1:]:
            on = bool(chance >= 1 / self.on_rounds) if on else bool(chance < self._comes_on())
        return on

    def _comes_on(self) -> float:
        """Return the chance that a device that is off is on in the next round."""
        return self.on_share / (1 - self.on_share) / self.on_rounds


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a round took a client: virtual seconds of its own, and joules in them."""

    seconds: float
    joules: float


class Device(ABC):
    """A kind of device.

    Abstract: a profile derives from it once, as a frozen dataclass whose defaults are its figures.

    Attributes:
        share: how many clients have it, in proportion to the other devices of the scenario.
        flops: operations a second of training that it comes to, not its peak.
        down_bps: bits a second from the server.
        up_bps: bits a second to the server.
        compute_w: watts that all of it draws while it computes.
        radio_w: the same while it sends or receives.
        idle_w: the same while it waits for a round to end.
        availability: when it is on.
    """

    share: Figure
    flops: Figure
    down_bps: Figure
    up_bps: Figure
    compute_w: Power
    radio_w: Power
    idle_w: Power
    availability: Availability

    def spent(self, *, work: float, bytes_down: int, bytes_up: int) -> Spent:
        """Return what receiving, ``work`` operations and sending take, one after the other."""
        computing = work / self.flops
        sending = BITS * (bytes_down / self.down_bps + bytes_up / self.up_bps)
        joules = self.compute_w * computing + self.radio_w * sending
        return Spent(seconds=computing + sending, joules=joules)


devices = Registry("device", Device, package="fedkd.devices.profiles")


def device_of(kinds: Sequence[Device], client: int, *, n_clients: int) -> Device:
    """Return a client's device: neighbors by id have the same one, kinds come in their order."""
    place = (client + 0.5) / n_clients * sum(kind.share for kind in kinds)
    for kind in kinds:
        place -= kind.share
        if place < 0:
            return kind
    return kinds[-1]
