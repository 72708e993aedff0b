"""Who must have answered before a round counts, and how long that may take."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedkd.errors import RunStopped
from fedkd.results import Failure
from fedkd.scenario import Scenario
from fedkd_server.postbox import Wait


def wait_of(scenario: Scenario) -> Wait:
    """Return how long a scenario lets real clients take."""
    return Wait(seconds=scenario.deadline_s, late=scenario.late_policy)


def check_simulated(scenario: Scenario, simulated: Collection[int]) -> None:
    """Refuse to act out faults and devices on real clients.

    Raises:
        RunStopped: the scenario has faults or devices, and a client is no simulation's.
    """
    real = [client for client in range(scenario.clients) if client not in simulated]
    if (scenario.faults is not None or scenario.devices) and real:
        raise RunStopped(
            f"set-up: faults and devices are for simulations, and clients {real[:10]} are real; "
            "use faults=null devices=[]"
        )


def check_turnout(
    scenario: Scenario,
    failures: Sequence[Failure],
    *,
    members: Sequence[int],
    stood_in: Sequence[int],
    round: int,
) -> None:
    """Stop the run rather than go on with what too few said.

    Two questions: did enough of the cohort complete the round (``min_completion``), and are there
    enough uploads for a consensus (``quorum``), where one of the round before counts as well.

    Raises:
        RunStopped: too few, with the first reasons.
    """
    done = len(members) - len(failures)
    first = "; ".join(f"client {f.client}: {f.reason}" for f in failures[:5])
    if done < scenario.min_completion * len(members):
        raise RunStopped(
            f"round {round}: only {done} of {len(members)} clients completed, below "
            f"min_completion={scenario.min_completion} ({first})"
        )
    usable = done + len(stood_in)
    if usable < scenario.quorum:
        raise RunStopped(
            f"round {round}: {usable} usable uploads of {len(members)} clients, below "
            f"quorum={scenario.quorum} ({first})"
        )
