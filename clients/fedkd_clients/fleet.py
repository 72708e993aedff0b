"""Client logic for many clients at once: requests in, replies out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from fedkd.data.federation import load
from fedkd.protectors.base import Context
from fedkd.rng import torch_stream
from fedkd.scenario import Scenario
from fedkd.training.steps import Examples
from fedkd.transport.messages import Action, Reply, Request
from fedkd.types import Consensus, Knowledge, ProxySet, Upload
from fedkd_clients.learner import SerialLearner
from fedkd_clients.private_data import contribution
from fedkd_clients.store import ClientStore


class Fleet:
    """Handles requests to any number of clients that share one process and one scenario."""

    def __init__(self, scenario: Scenario, store: ClientStore, *, device: torch.device) -> None:
        self._scenario, self._device = scenario, device
        self._learner = SerialLearner(scenario, store, device=device)
        self._proxy_inputs: dict[int, torch.Tensor] = {}

    def handle(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests of one action and one round, in their order.

        Raises:
            Exception: whatever a client's data or model raises; the app turns it into a code.
        """
        answer: dict[Action, Callable[[Sequence[Request]], list[Reply]]] = {
            Action.HELLO: self._hello,
            Action.CONTRIBUTE: self._contribute,
            Action.ROUND: self._round,
            Action.MEASURE: self._measure,
        }
        self._learner.round = requests[0].round
        return answer[requests[0].action](requests)

    def _hello(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(client=request.client) for request in requests]

    def _contribute(self, requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(
                client=request.client,
                contribution=contribution(self._learner.private(request.client)),
            )
            for request in requests
        ]

    def _round(self, requests: Sequence[Request]) -> list[Reply]:
        for request in requests:
            if request.proxy is not None:
                self._receive_proxy(request.client, request.proxy)
        clients, incoming = [request.client for request in requests], requests[0].incoming
        uploads = self._scenario.method.client_round(self._learner, clients, incoming)
        replies = [
            Reply(client=request.client, upload=self._leaving(request, upload))
            for request, upload in zip(requests, uploads, strict=True)
        ]
        for client in clients:
            self._learner.keep(client)
        return replies

    def _leaving(self, request: Request, upload: Upload | None) -> Upload | None:
        """Protect and encode: the last thing done to an upload on the client's side."""
        if not isinstance(upload, Knowledge):
            return upload
        proxy = self._learner.state(request.client).proxy
        if proxy is None:
            raise RuntimeError(f"client {request.client} has knowledge but no proxy set")
        incoming = request.incoming if isinstance(request.incoming, Consensus) else None
        seed = self._scenario.training_seed()
        rng = torch_stream(seed, "protection", round=request.round, client=request.client)
        surroundings = Context(proxy=proxy, consensus=incoming)
        protected = self._scenario.protector.protect(upload, surroundings, rng=rng)
        return self._scenario.method.encode(protected)

    def _receive_proxy(self, client: int, proxy: ProxySet) -> None:
        inputs = self._proxy_inputs.setdefault(proxy.version, proxy.inputs.to(self._device))
        state = self._learner.state(client)
        state.proxy, state.weights = replace(proxy, inputs=inputs), None

    def _measure(self, requests: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        for request in requests:
            client, learner = request.client, self._learner
            metrics = {
                "accuracy": learner.accuracy(client, self._test),
                "accuracy_local": learner.accuracy(client, learner.private(client).local_test),
            }
            if request.closing:
                twin = learner.copies([client])
                self._scenario.method.absorb(twin, [client], request.incoming)
                metrics["accuracy_distilled"] = twin.accuracy(client, self._test)
            known = {name: value for name, value in metrics.items() if not math.isnan(value)}
            replies.append(Reply(client=client, metrics=known))
        return replies

    @cached_property
    def _test(self) -> Examples:
        arrays = load(self._scenario.data)
        return Examples(
            inputs=torch.from_numpy(arrays.test_inputs).to(self._device),
            labels=torch.from_numpy(arrays.test_labels).to(self._device),
        )
