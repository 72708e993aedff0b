"""From events to epsilon: exact for Gaussians, else dp-accounting's loss distributions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, Gaussian, Laplace, Nothing

GRID = 1e-3
"""Discretization of privacy losses; errors are on the safe side and below 1e-4 of an epsilon."""
PLD_LIMIT = 60.0
"""Above this epsilon (bounded by RDP) loss distributions grow too large; RDP's bound stands."""

RDP_ORDERS = [*range(2, 65), 80, 96, 128, 192, 256, 512, 1024]
"""Whole orders only: fractional ones are a series that does not always converge."""


def epsilon(events: Iterable[Event], *, delta: float) -> float:
    """Return the epsilon of all events together, an upper bound; infinity where none holds.

    Sampled Gaussians are bounded for adding or removing one record; the other events hold for
    whatever relation their sensitivity was worked out for.
    """
    return epsilon_of_counts(Counter(events), delta=delta)


def epsilon_of_counts(times: Mapping[Event, int], *, delta: float) -> float:
    """Return what :func:`epsilon` does, of events with the times that each took place."""
    if not all(event.counted for event in times):
        return math.inf
    composition = ((event, n) for event, n in times.items() if not isinstance(event, Nothing))
    return _epsilon(frozenset(composition), delta)


@lru_cache(maxsize=4096)
def _epsilon(composition: frozenset[tuple[Event, int]], delta: float) -> float:
    from dp_accounting import NeighboringRelation, get_epsilon_gaussian
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    if not composition:
        return 0.0
    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    precision = 0.0
    for event, times in composition:
        if isinstance(event, Gaussian):
            precision += times * event.count / event.noise_multiplier**2
    others = [(event, times) for event, times in composition if not isinstance(event, Gaussian)]
    if not others:
        return float(get_epsilon_gaussian(1 / math.sqrt(precision), delta))
    rough = RdpAccountant(orders=RDP_ORDERS, neighboring_relation=relation)
    for event, times in composition:
        rough.compose(event.dp_event(), times)
    bound = min(float(rough.get_epsilon(delta)), _pure(composition))
    if bound > PLD_LIMIT:
        return bound
    fine = PLDAccountant(relation, value_discretization_interval=GRID)
    for event, times in composition:
        fine.compose(event.dp_event(), times)
    return min(bound, float(fine.get_epsilon(delta)))


def _pure(composition: frozenset[tuple[Event, int]]) -> float:
    """Return the summed pure epsilon when every event is Laplace, else infinity."""
    total = 0.0
    for event, times in composition:
        if not isinstance(event, Laplace):
            return math.inf
        total += times * event.count / event.noise_multiplier
    return total


def calibrate(
    spending: Callable[[float], Iterable[Event]], *, target_epsilon: float, delta: float
) -> float:
    """Return the least noise multiplier (to 0.1 %) whose events stay within ``target_epsilon``.

    Args:
        spending: all events of a whole run, given the noise multiplier.
        target_epsilon: the limit.
        delta: the delta it is stated at.

    Raises:
        ConfigError: no noise multiplier below 1e6 keeps the limit.
    """

    def holds(noise_multiplier: float) -> bool:
        return epsilon(spending(noise_multiplier), delta=delta) <= target_epsilon

    high = 1.0
    while not holds(high):
        high *= 2
        if high > 1e6:
            raise ConfigError(
                f"privacy.target_epsilon: no noise keeps {target_epsilon:g} at delta {delta:g}; "
                "raise it, or make fewer rounds"
            )
    low = high / 2
    while low > 1e-3 and holds(low):
        low, high = low / 2, low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
