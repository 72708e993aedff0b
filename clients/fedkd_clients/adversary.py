"""What an adversary client sends in place of what it learned."""

from __future__ import annotations

import torch

from fedkd.adversaries.base import Surroundings, poisoned, stream
from fedkd.data.federation import load
from fedkd.protectors.base import Context
from fedkd.scenario import Scenario
from fedkd.transport.messages import Request
from fedkd.types import Knowledge, Upload
from fedkd_clients.state import ClientState


def poisoned_upload(
    scenario: Scenario,
    state: ClientState,
    honest: Upload,
    surroundings: Context,
    *,
    request: Request,
) -> Upload:
    """Return the poisoned upload; an adversary protects nothing, and may remember in ``state``."""
    attack = scenario.attack
    if attack is None or not isinstance(honest, Knowledge):
        return honest
    earlier = state.earlier
    if attack.remembers and earlier is None:
        state.earlier = honest
    proxy = surroundings.proxy
    asked = scenario.asked(len(proxy), round=request.round)
    if asked is None:
        asked = torch.ones(len(proxy), dtype=torch.bool)
    around = Surroundings(
        rows=torch.nonzero(asked.repeat_interleave(proxy.rows_per_input)).flatten(),
        n_classes=load(scenario.data).n_classes,
        consensus=surroundings.consensus,
        earlier=earlier,
        row_temperatures=scenario.protector.row_temperatures(temperature=surroundings.temperature),
    )
    seed, client = scenario.training_seed(), request.client
    rng = stream(attack, seed, "upload", round=request.round, client=client)
    return poisoned(attack, honest, around, rng=rng)
