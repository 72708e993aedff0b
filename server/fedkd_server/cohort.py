"""Who is there, and who takes part in a round."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.rng import numpy_stream
from fedkd.scenario import Scenario


def cohort(scenario: Scenario, participants: Sequence[int], *, round: int) -> list[int]:
    """Draw a round's clients by their ids, which are the same on every grid."""
    size = scenario.cohort
    if size is None or size >= len(participants):
        return list(participants)
    rng = numpy_stream(scenario.training_seed(), "cohort", round=round)
    return sorted(int(c) for c in rng.choice(participants, size=size, replace=False))
