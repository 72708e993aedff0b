"""How good the clients' models are, in part on private examples: for simulations only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from fedkd.data.federation import load
from fedkd.scenario import Scenario
from fedkd.training.packing import Packing
from fedkd.training.steps import Examples, as_model_input
from fedkd.transport.messages import Reply, Request
from fedkd.types import Broadcast
from fedkd_clients.learner import FleetLearner

TWINS = 32
"""Clients whose models are copied at a time, for the copies to take in the last broadcast."""


class Measuring:
    """Measures the models of a learner, beside ledger and transcript."""

    def __init__(self, scenario: Scenario, learner: FleetLearner, *, device: torch.device) -> None:
        self._scenario, self._learner, self._device = scenario, learner, device
        self._newest: tuple[Packing, Tensor, dict[str, float]] | None = None
        self._twins: dict[int, FleetLearner] = {}

    def prepare(self, requests: Sequence[Request]) -> None:
        """Let copies of the clients' models take in the last broadcast, where that is asked for."""
        self._twins.clear()
        if not requests[0].closing:
            return
        incoming = requests[0].incoming
        clients = [request.client for request in requests]
        self._learner.guard.together(clients, lambda some: self._close(some, incoming))

    def reply(self, request: Request) -> Reply:
        """Return a client's metrics."""
        client, learner = request.client, self._learner
        failure = learner.guard.take(client)
        if failure is not None:  # logged where it was raised
            return Reply(client=client, error=type(failure).__name__)
        metrics = learner.figures(client, self._test)
        local = learner.figures(client, learner.private(client).local_test)
        metrics |= {f"{name}_local": value for name, value in local.items()}
        if request.closing:
            distilled = self._distilled(client)
            metrics |= {f"{name}_distilled": value for name, value in distilled.items()}
        learner.state(client).rest()
        return Reply(client=client, metrics=metrics)

    def _close(self, clients: Sequence[int], incoming: Broadcast | None) -> None:
        twin = self._learner.copies(clients)
        self._scenario.method.absorb(twin, clients, incoming)
        for client in clients:
            failure = twin.guard.take(client)
            if failure is not None:
                self._learner.guard.fail(client, failure)
            self._twins[client] = twin

    def _distilled(self, client: int) -> dict[str, float]:
        """Return a copy's metrics; those of the last copy again where it is like it.

        After an average of parameters, all copies are alike.
        """
        twin = self._twins[client]
        packing, values = twin.packing(client), twin.state(client).values
        if self._newest is not None:
            architecture, like, found = self._newest
            if architecture is packing and torch.equal(like, values):
                return found
        found = twin.figures(client, self._test)
        if packing.layout is not None:  # the parameters are all there is to the model
            self._newest = (packing, values, found)
        return found

    @cached_property
    def _test(self) -> Examples:
        arrays = load(self._scenario.data)
        return Examples(
            inputs=as_model_input(torch.from_numpy(arrays.test_inputs).to(self._device)),
            labels=torch.from_numpy(arrays.test_labels).to(self._device),
        )
