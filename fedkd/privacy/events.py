"""What a release costs: a small vocabulary of privacy events, each one a dp-accounting event.

An event says what was done, never what came out, so it may be stored and shown. Sensitivities are
divided out: a noise multiplier is the noise's scale over the sensitivity of the whole release.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from fedkd.registry import describe

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class Unit(StrEnum):
    """Whose presence a guarantee hides."""

    RECORD = "record"
    """One private example, added or removed."""
    CLIENT = "client"
    """All of one client's data, replaced by anything else."""


class Event(ABC):
    """One release, or several alike."""

    @property
    def counted(self) -> bool:
        """Whether an accountant can bound what it gives away."""
        return True

    @abstractmethod
    def dp_event(self) -> DpEvent:
        """Return the event as dp-accounting knows it."""


@dataclass(frozen=True)
class Nothing(Event):
    """No private data went in."""

    def dp_event(self) -> DpEvent:
        """Return the event that costs nothing."""
        from dp_accounting import NoOpDpEvent

        return NoOpDpEvent()


@dataclass(frozen=True)
class Uncounted(Event):
    """Private data went in and no mechanism bounds what comes out: epsilon is infinite.

    Attributes:
        reason: what it is, for the officer.
    """

    reason: str = "not a private mechanism"

    @property
    def counted(self) -> bool:
        """No accountant can bound it."""
        return False

    def dp_event(self) -> DpEvent:
        """Return the event without a guarantee."""
        from dp_accounting import NonPrivateDpEvent

        return NonPrivateDpEvent()


@dataclass(frozen=True)
class Gaussian(Event):
    """Gaussian noise.

    Attributes:
        noise_multiplier: standard deviation over the L2 sensitivity.
        count: how many such releases.
    """

    noise_multiplier: Annotated[float, Gt(0)] = 1.0
    count: Annotated[int, Ge(1)] = 1

    def dp_event(self) -> DpEvent:
        """Return the Gaussian event."""
        from dp_accounting import GaussianDpEvent, SelfComposedDpEvent

        return SelfComposedDpEvent(GaussianDpEvent(self.noise_multiplier), self.count)


@dataclass(frozen=True)
class Laplace(Event):
    """Laplace noise.

    Attributes:
        noise_multiplier: the noise's scale b over the L1 sensitivity.
        count: how many such releases.
    """

    noise_multiplier: Annotated[float, Gt(0)] = 1.0
    count: Annotated[int, Ge(1)] = 1

    def dp_event(self) -> DpEvent:
        """Return the Laplace event."""
        from dp_accounting import LaplaceDpEvent, SelfComposedDpEvent

        return SelfComposedDpEvent(LaplaceDpEvent(self.noise_multiplier), self.count)


@dataclass(frozen=True)
class SampledGaussian(Event):
    """Gaussian noise on a sum over a Poisson sample: steps of DP-SGD.

    Attributes:
        sampling_probability: chance of every record to be in a batch, independently.
        noise_multiplier: standard deviation over the clip norm.
        count: how many steps.
    """

    sampling_probability: Annotated[float, Gt(0), Le(1)] = 1.0
    noise_multiplier: Annotated[float, Gt(0)] = 1.0
    count: Annotated[int, Ge(1)] = 1

    def dp_event(self) -> DpEvent:
        """Return the Poisson-sampled Gaussian event."""
        from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

        step = PoissonSampledDpEvent(
            self.sampling_probability, GaussianDpEvent(self.noise_multiplier)
        )
        return SelfComposedDpEvent(step, self.count)


_KINDS: dict[str, type[Event]] = {
    "nothing": Nothing,
    "uncounted": Uncounted,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "sampled_gaussian": SampledGaussian,
}


def to_plain(event: Event) -> dict[str, Any]:
    """Return the event as plain data, its ``kind`` included."""
    kind = next(kind for kind, cls in _KINDS.items() if type(event) is cls)
    return {"kind": kind, **describe(event)}


def from_plain(tree: dict[str, Any]) -> Event:
    """Rebuild what :func:`to_plain` returned; KeyError or TypeError for anything else."""
    fields = dict(tree)
    return _KINDS[fields.pop("kind")](**fields)
