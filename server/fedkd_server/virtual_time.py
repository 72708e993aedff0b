"""How long a simulated round would have taken the server to wait for, and all devices' energy."""

from __future__ import annotations

from fedkd.devices.base import device_of
from fedkd.faults.absence import ABSENT
from fedkd.results import SERVER, Loss, Measurement
from fedkd.scenario import Scenario
from fedkd.transport.batch import Harvest

SILENT = {Loss.NO_ANSWER.value, Loss.LATE.value, *ABSENT}
"""Failures after which the server can but wait for the deadline."""


def virtual_time(scenario: Scenario, harvest: Harvest, *, round: int) -> list[Measurement]:
    """Return the round's figures; none where the scenario takes no virtual time.

    The server waits for the slowest upload, at most until the deadline, and until the deadline for
    who never answers; without one, it does not wait for those. A device waits with it, idle.
    """
    faults = scenario.faults
    if not scenario.devices and (faults is None or not faults.timed):
        return []
    waited, deadline = harvest.waited, scenario.deadline_s
    if deadline is not None:
        silent = any(reason in SILENT for _, reason in harvest.failures)
        waited = deadline if silent else min(waited, deadline)
    figures, total = [Measurement(round, SERVER, "virtual_seconds", waited)], 0.0
    for client, (seconds, joules) in sorted(harvest.spent.items()):
        device = device_of(scenario.devices, client, n_clients=scenario.clients)
        energy = joules + device.idle_w * max(0.0, waited - seconds)
        figures.append(Measurement(round, client, "device_seconds", seconds))
        figures.append(Measurement(round, client, "device_energy_j", energy))
        total += energy
    if scenario.devices:
        figures.append(Measurement(round, SERVER, "energy_j", total))
    return figures
