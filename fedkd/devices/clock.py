"""The virtual clock of one client: what its device would have needed for a round."""

from __future__ import annotations

from fedkd.devices.base import Spent, device_of
from fedkd.devices.work import work
from fedkd.scenario import Scenario
from fedkd.transport.messages import Reply, Request
from fedkd.transport.sizes import message_size


def spent(scenario: Scenario, request: Request, reply: Reply) -> Spent | None:
    """Return what a round took; None without devices, and where nothing was done.

    The first request holds the proxy set, so that its download counts. A straggler
    (``faults.straggle``) takes a multiple of both, time and energy.
    """
    if not scenario.devices or reply.error:
        return None
    device = device_of(scenario.devices, request.client, n_clients=scenario.clients)
    took = device.spent(
        work=work(scenario, request, reply.upload),
        bytes_down=sum(message_size(request).values()),
        bytes_up=sum(message_size(reply).values()),
    )
    factor = 1.0
    if scenario.faults is not None:
        factor = scenario.faults.slowness(scenario.training_seed(), request.client)
    return Spent(seconds=factor * took.seconds, joules=factor * took.joules)
