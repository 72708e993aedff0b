"""The named steps of a round, told to the logger ``fedkd.steps`` as they are reached.

Wherever a run is killed among them, ``fedkd resume`` brings it to the same end.
"""

from __future__ import annotations

import logging

STEPS = (
    "begun",
    "admitted",
    "client charged",
    "client trained",
    "client kept",
    "answered",
    "combined",
    "measured",
    "recorded",
    "shown",
    "checkpoint begun",
    "checkpoint written",
    "checkpoint in place",
)
"""In their order; a client's come once for each client."""

logger = logging.getLogger("fedkd.steps")


def reached(step: str, round: int) -> None:
    """Say at debug level that a step of a round is done."""
    logger.debug("round %d: %s", round, step)
