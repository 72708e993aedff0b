"""Client logic for many clients at once: requests in, replies out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch

from fedkd.data.federation import load
from fedkd.methods.base import CoDistillation
from fedkd.privacy.ledger import Release
from fedkd.privacy.releases import given_in_clear, releases
from fedkd.privacy.settings import ServerView
from fedkd.protectors.base import Context, dense
from fedkd.rng import noise_stream
from fedkd.scenario import Scenario
from fedkd.training.steps import Examples
from fedkd.transport.codes import as_sent
from fedkd.transport.hello import agree, greeting
from fedkd.transport.messages import Action, Hello, Reply, Request
from fedkd.types import Broadcast, Consensus, Knowledge, ProxySet, Upload
from fedkd_clients.adversary import poisoned_upload
from fedkd_clients.learner import FleetLearner
from fedkd_clients.masking import Masking, MaskingError
from fedkd_clients.private_data import contribution
from fedkd_clients.spending import Spending
from fedkd_clients.store import ClientStore

logger = logging.getLogger("fedkd.client")


class Fleet:
    """Handles requests to any number of clients that share one process and one scenario.

    Args:
        scenario: with every noise multiplier known.
        store: where clients keep their state.
        device: where they compute.
        ledgers: where their privacy ledgers outlive this process; None keeps them in memory.
        simulated: whether these clients are one machine's simulation, whose private data is
            nobody's secret. Only then do they say how good their models are.
        own: a file or folder with the client's own examples; empty takes the scenario's.
    """

    def __init__(
        self,
        scenario: Scenario,
        store: ClientStore,
        *,
        device: torch.device,
        ledgers: Path | None = None,
        simulated: bool = False,
        own: str = "",
    ) -> None:
        self._scenario, self._device, self._simulated = scenario, device, simulated
        self._spending = Spending(scenario, ledgers)
        self._learner = FleetLearner(scenario, store, device=device, own=own)
        self._proxy_inputs: dict[int, torch.Tensor] = {}

    def share_rows(self) -> None:
        """Keep all clients' rows in memory that processes forked from now on share."""
        self._learner.share_rows()

    def handle(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests of one action and one round, in their order.

        What one client's data or model raises is that client's error reply, and is logged here;
        the others are answered.
        """
        answer: dict[Action, Callable[[Request], Reply]] = {
            Action.HELLO: self._hello,
            Action.CONTRIBUTE: self._contribute,
            Action.KEYS: self._keys,
            Action.COUNTS: self._counts,
            Action.SCORES: self._scores,
            Action.MEASURE: self._measure,
        }
        self._learner.round = requests[0].round
        if requests[0].action is Action.ROUND:
            return self._round(requests)
        return [self._guarded(answer[requests[0].action], request) for request in requests]

    def _guarded(self, answer: Callable[[Request], Reply], request: Request) -> Reply:
        try:
            return answer(request)
        except Exception as error:
            logger.exception("client %d failed in %s", request.client, request.action.value)
            return Reply(client=request.client, error=type(error).__name__)

    def _hello(self, request: Request) -> Reply:
        mine = self._greeting
        if request.hello is not None:
            agree(mine, request.hello)
        return Reply(client=request.client, hello=mine)

    def _contribute(self, request: Request) -> Reply:
        given = given_in_clear(self._scenario)
        if not given:
            raise PermissionError("this scenario shares no private example in clear")
        self._spending.charge(request.client, given, round=request.round)
        examples = contribution(self._learner.private(request.client))
        return Reply(client=request.client, contribution=examples)

    def _round(self, requests: Sequence[Request]) -> list[Reply]:
        """Prepare each client, train those that could be in batches, let each one answer."""
        charged: dict[int, list[Release]] = {}

        def prepare(request: Request) -> Reply:
            if request.proxy is not None:
                self._receive_proxy(request.client, request.proxy)
            if self._sums:
                self._begin(request)
            self._learner.take_events(request.client)  # of a round that failed; it stays charged
            self._learner.guard.take(request.client)
            charged[request.client] = self._charge(request)
            return Reply(client=request.client)

        replies = {request.client: self._guarded(prepare, request) for request in requests}
        ready = [request.client for request in requests if not replies[request.client].error]
        uploads: dict[int, Upload | None] = {}
        if ready:
            uploads = self._work(ready, requests[0].incoming)

        def finish(request: Request) -> Reply:
            client = request.client
            failure = self._learner.guard.take(client)
            if failure is not None:  # logged where it was raised
                return Reply(client=client, error=type(failure).__name__)
            self._spending.verify(client, self._learner.take_events(client), charged[client])
            reply = self._answer(request, self._leaving(request, uploads[client]))
            return self._kept(reply)

        for request in requests:
            if request.client in ready:
                replies[request.client] = self._guarded(finish, request)
        return list(replies.values())

    def _work(self, clients: Sequence[int], incoming: Broadcast | None) -> dict[int, Upload | None]:
        """Let the method do a round; what it raises by itself is every client's failure."""
        try:
            done = self._scenario.method.client_round(self._learner, clients, incoming)
        except Exception as error:
            logger.exception("the method failed")
            for client in clients:
                self._learner.guard.fail(client, error)
            return dict.fromkeys(clients)
        return dict(zip(clients, done, strict=True))

    def _charge(self, request: Request) -> list[Release]:
        """Write the round down in the client's own ledger, before anything private is touched.

        What was contributed to the proxy set is there since it was given.
        """
        state, given = self._learner.state(request.client), given_in_clear(self._scenario)
        planned = releases(
            self._scenario,
            n_rows=0 if state.proxy is None else state.proxy.n_rows,
            first=state.weights is None,
        )
        due = [release for release in planned if release not in given]
        return self._spending.charge(request.client, due, round=request.round)

    @property
    def _sums(self) -> bool:
        """Whether uploads stay here and only masked sums of them leave."""
        return self._scenario.server_view is ServerView.SUMS

    def _answer(self, request: Request, upload: Upload | None) -> Reply:
        if not self._sums:
            return Reply(client=request.client, upload=upload)
        if not isinstance(upload, Knowledge):
            raise MaskingError("masked sums are over knowledge, and this method makes none")
        masking, n_rows = self._masking(request), self._n_rows(request)
        masking.hold(upload, n_rows=n_rows, n_classes=self._learner.task.n_classes)
        return Reply(client=request.client, masked=masking.counts(n_rows=n_rows))

    def _keys(self, request: Request) -> Reply:
        return self._kept(Reply(client=request.client, key=self._masking(request).public_key()))

    def _counts(self, request: Request) -> Reply:
        self._begin(request)
        words = self._masking(request).counts(n_rows=self._n_rows(request))
        return self._kept(Reply(client=request.client, masked=words))

    def _scores(self, request: Request) -> Reply:
        masking, n_rows = self._masking(request), self._n_rows(request)
        words = masking.scores(request.roll, round=request.round, n_rows=n_rows)
        return self._kept(Reply(client=request.client, masked=words))

    def _begin(self, request: Request) -> None:
        masking, client = self._masking(request), request.client
        if request.keys is not None:
            masking.learn(request.keys, client=client)
        n_min = self._scenario.n_min
        masking.begin(request.roll, client=client, round=request.round, n_min=n_min)

    def _masking(self, request: Request) -> Masking:
        if not self._sums:
            raise MaskingError("this scenario has no masked sums; set server_view=sums")
        return self._learner.state(request.client).masking

    def _n_rows(self, request: Request) -> int:
        proxy = self._learner.state(request.client).proxy
        if proxy is None:
            raise MaskingError("sums over a proxy set that was never sent")
        return proxy.n_rows

    def _kept(self, reply: Reply) -> Reply:
        """Store the client's state before its reply can leave, so that no mask is used twice."""
        self._learner.keep(reply.client)
        return reply

    def _leaving(self, request: Request, upload: Upload | None) -> Upload | None:
        """Protect and encode: the last thing done to an upload on the client's side."""
        if not isinstance(upload, Knowledge):
            return upload
        proxy = self._learner.state(request.client).proxy
        if proxy is None:
            raise RuntimeError(f"client {request.client} has knowledge but no proxy set")
        method, protector, client = self._scenario.method, self._scenario.protector, request.client
        seed = self._scenario.noise_seed()
        rng = noise_stream(seed, "protection", round=request.round, client=client)
        surroundings = Context(
            proxy=proxy,
            consensus=request.incoming if isinstance(request.incoming, Consensus) else None,
            temperature=method.distiller.teacher_temperature
            if isinstance(method, CoDistillation)
            else 1.0,
            closeness=partial(self._learner.closeness, client) if protector.reads_private else None,
        )
        if client in self._scenario.attackers():
            leaving = poisoned_upload(
                self._scenario,
                self._learner.state(client),
                method.encode(upload),
                surroundings,
                request=request,
            )
        else:
            leaving = method.encode(protector.protect(upload, surroundings, rng=rng))
        if self._sums and isinstance(leaving, Knowledge):  # sums are over all classes
            return dense(leaving, n_classes=self._learner.task.n_classes)
        return as_sent(leaving, self._scenario.wire)

    def _receive_proxy(self, client: int, proxy: ProxySet) -> None:
        inputs = self._proxy_inputs.setdefault(proxy.version, proxy.inputs.to(self._device))
        state = self._learner.state(client)
        per_input = self._learner.task.rows_per_input
        state.proxy = replace(proxy, inputs=inputs, rows_per_input=per_input)
        state.weights = None

    def _measure(self, request: Request) -> Reply:
        """Measure client models, in part on private examples, beside ledger and transcript.

        Raises:
            PermissionError: outside a simulation, where it would be an uncounted release.
        """
        if not self._simulated:
            raise PermissionError(
                "query.measure: a server asked how good the client's model is, which is computed "
                "from private examples and in no ledger; only a simulation answers"
            )
        client, learner = request.client, self._learner
        metrics = learner.figures(client, self._test)
        local = learner.figures(client, learner.private(client).local_test)
        metrics |= {f"{name}_local": value for name, value in local.items()}
        if request.closing:
            twin = learner.copies([client])
            self._scenario.method.absorb(twin, [client], request.incoming)
            distilled = twin.figures(client, self._test)
            metrics |= {f"{name}_distilled": value for name, value in distilled.items()}
        return Reply(client=client, metrics=metrics)

    @cached_property
    def _greeting(self) -> Hello:
        return greeting(self._scenario, simulated=self._simulated)

    @cached_property
    def _test(self) -> Examples:
        arrays = load(self._scenario.data)
        return Examples(
            inputs=torch.from_numpy(arrays.test_inputs).to(self._device),
            labels=torch.from_numpy(arrays.test_labels).to(self._device),
        )
