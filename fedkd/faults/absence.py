"""Clients of a simulation that do not do a round at all: they crashed, or their device is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedkd.devices.base import device_of

if TYPE_CHECKING:
    from fedkd.scenario import Scenario


class ClientCrashed(RuntimeError):
    """The scenario's ``faults.crash`` says that this client fails in this round."""


class DeviceOff(RuntimeError):
    """The client's device is off in this round (``devices``, ``availability``)."""


ABSENT = (ClientCrashed.__name__, DeviceOff.__name__)
"""What they are called where an exception's type is all that is told."""


def turn_up(scenario: Scenario, *, client: int, round: int) -> None:
    """Raise where a client takes no part in a round; before it touches or charges anything.

    Raises:
        ClientCrashed: the scenario says so.
        DeviceOff: its device is not on in this round.
    """
    crash = None if scenario.faults is None else scenario.faults.crash
    if crash is not None and (crash.client, crash.round) == (client, round):
        raise ClientCrashed(f"faults.crash: client {client} in round {round}")
    if not scenario.devices:
        return
    device = device_of(scenario.devices, client, n_clients=scenario.clients)
    if not device.availability.is_on(scenario.training_seed(), client=client, round=round):
        raise DeviceOff(f"the device of client {client} is off in round {round}")
