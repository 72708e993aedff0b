"""Client logic for many clients at once: requests in, replies out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch

from fedkd.faults.absence import turn_up
from fedkd.methods.base import MessageKind
from fedkd.privacy.ledger import Ledger, Release
from fedkd.privacy.releases import given_in_clear, releases
from fedkd.scenario import Scenario
from fedkd.steps import reached
from fedkd.transport.codes import as_sent
from fedkd.transport.hello import agree, greeting
from fedkd.transport.messages import Action, Hello, Reply, Request
from fedkd.types import Broadcast, Knowledge, ProxySet, Upload
from fedkd_clients import snapshots
from fedkd_clients.learner import FleetLearner
from fedkd_clients.leaving import protected
from fedkd_clients.measuring import TWINS, Measuring
from fedkd_clients.private_data import contribution
from fedkd_clients.spending import Spending
from fedkd_clients.store import ClientStore
from fedkd_clients.sums import MaskedAnswers

logger = logging.getLogger("fedkd.client")
Result = TypeVar("Result")


class RoundOver(RuntimeError):
    """A request for a round that is past, and whose answer is not there to be given again."""


class Fleet:
    """Handles requests to any number of clients that share one process and one scenario.

    Attributes:
        at_once: how many clients do a round together. The more are trained in one block the
            better, as long as their rows stay in the cache until the round is over.

    Args:
        scenario: with every noise multiplier known.
        store: where clients keep their state.
        device: where they compute.
        spending: their privacy ledgers; None keeps new ones in memory.
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
        spending: Spending | None = None,
        simulated: bool = False,
        own: str = "",
    ) -> None:
        self._scenario, self._device, self._simulated = scenario, device, simulated
        self._spending = Spending(scenario, None) if spending is None else spending
        self._learner = FleetLearner(scenario, store, device=device, own=own)
        self._sums = MaskedAnswers(scenario, self._learner)
        self._measuring = Measuring(scenario, self._learner, device=device)
        self.at_once = self._learner.together()
        self._known: dict[tuple[int, bool], list[Release]] = {}

    def share_rows(self) -> None:
        """Keep all clients' rows in memory that processes forked from now on share."""
        self._learner.share_rows()

    def recall(self, told: Ledger) -> None:
        """Take up what the server's ledger of this run says that clients released before."""
        self._spending.recall(told)

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
        }
        self._learner.streams.round = requests[0].round
        if requests[0].action is Action.ROUND:
            some = -(-len(requests) // -(-len(requests) // self.at_once))  # about as many each time
            starts = range(0, len(requests), some)
            return [reply for n in starts for reply in self._round(requests[n : n + some])]
        if requests[0].action is Action.MEASURE:
            return self._measure(requests)
        return [self._guarded(answer[requests[0].action], request) for request in requests]

    def _guarded(self, answer: Callable[[Request], Result], request: Request) -> Result | Reply:
        try:
            return answer(request)
        except Exception as error:
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Reply:
        logger.error("client %d failed in %s", request.client, request.action.value, exc_info=error)
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
        refused = self._spending.charge([request.client], given, round=request.round)
        if refused:
            raise refused[request.client]
        examples = contribution(self._learner.private(request.client))
        return Reply(client=request.client, contribution=examples)

    def save(self, path: Path, clients: Sequence[int]) -> None:
        """Write what those of the clients carry that have a state by now into one file."""
        snapshots.save(self._learner, path, clients)

    def restore(self, path: Path, proxy: ProxySet | None) -> None:
        """Give clients back what :meth:`save` wrote, before any is asked."""
        snapshots.restore(self._learner, path, proxy)

    def _round(self, requests: Sequence[Request]) -> list[Reply]:
        """Prepare each client, train those that could be in batches, let each one answer."""
        replies: dict[int, Reply] = {}
        ready: list[Request] = []
        for request in requests:
            reply = self._guarded(self._prepared, request)
            if reply is None:
                ready.append(request)
            else:
                replies[request.client] = reply
        charged, refused = self._charge(ready)
        for request in ready:
            if request.client in refused:
                replies[request.client] = self._failed(request, refused[request.client])
        ready = [request for request in ready if request.client not in refused]
        uploads: dict[int, Upload | None] = {}
        if ready:  # those that have the round before them, and can do it
            uploads = self._work([request.client for request in ready], requests[0].incoming)

        def finish(request: Request) -> Reply:
            client, planned = request.client, charged[request.client]
            failure = self._learner.guard.take(client)
            if failure is not None:  # logged where it was raised
                return Reply(client=client, error=type(failure).__name__)
            reached("client trained", request.round)
            self._spending.verify(client, self._learner.take_events(client), planned)
            leaving = protected(self._scenario, self._learner, request, uploads[client])
            reply = self._answer(request, leaving)
            self._learner.state(client).done = request.round
            self._kept(reply)
            reached("client kept", request.round)
            return reply

        for request in ready:
            reply = replies[request.client] = self._guarded(finish, request)
            if reply.error:
                self._learner.state(request.client).revert()
        return [replies[request.client] for request in requests]

    def _prepared(self, request: Request) -> Reply | None:
        """Make a client ready for its round; the reply where there is nothing left to be done."""
        client, learner = request.client, self._learner
        if self._simulated:
            turn_up(self._scenario, client=client, round=request.round)
        if request.round <= learner.state(client).done:
            return self._again(request)
        if request.proxy is not None:
            learner.receive(client, request.proxy)
        if self._sums.wanted:
            self._sums.begin(request)
        learner.take_events(client)  # of a round that failed; it stays charged
        learner.guard.take(client)
        return None

    def _again(self, request: Request) -> Reply:
        """Answer a round that is done, with the upload that was made then: nothing new leaves."""
        state = self._learner.state(request.client)
        if state.done != request.round:
            raise RoundOver(f"round {request.round} is over; round {state.done} is done")
        if self._sums.wanted:
            return self._counts(request)
        if state.answer is None and self._scenario.method.message is not MessageKind.NOTHING:
            raise RoundOver(f"round {request.round} is done, and its upload was not kept")
        answer, wire = state.answer, self._scenario.wire
        again = as_sent(answer, wire) if isinstance(answer, Knowledge) else answer
        return Reply(client=request.client, upload=again)

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

    def _charge(
        self, requests: Sequence[Request]
    ) -> tuple[dict[int, list[Release]], dict[int, Exception]]:
        """Write the round down in the clients' own ledgers, before anything private is touched.

        Returns:
            What each client is to release, and of some why they may not.
        """
        alike: dict[tuple[int, bool], list[int]] = {}
        for request in requests:
            state = self._learner.state(request.client)
            n_rows = 0 if state.proxy is None else state.proxy.n_rows
            alike.setdefault((n_rows, state.weights is None), []).append(request.client)
        charged: dict[int, list[Release]] = {}
        refused: dict[int, Exception] = {}
        for (n_rows, first), clients in alike.items():
            due = self._due(n_rows=n_rows, first=first)
            charged |= dict.fromkeys(clients, due)
            refused |= self._spending.charge(clients, due, round=requests[0].round)
            for client in clients:
                if client not in refused:
                    reached("client charged", requests[0].round)
        return charged, refused

    def _due(self, *, n_rows: int, first: bool) -> list[Release]:
        """Return what a round releases; what was contributed is charged since it was given."""
        if (n_rows, first) not in self._known:
            given = given_in_clear(self._scenario)
            planned = releases(self._scenario, n_rows=n_rows, first=first)
            self._known[n_rows, first] = [release for release in planned if release not in given]
        return self._known[n_rows, first]

    def _answer(self, request: Request, upload: Upload | None) -> Reply:
        if not self._sums.wanted:
            return Reply(client=request.client, upload=upload)
        self._sums.hold(request, upload)
        return Reply(client=request.client, masked=self._sums.counts(request))

    def _keys(self, request: Request) -> Reply:
        return self._kept(Reply(client=request.client, key=self._sums.key(request.client)))

    def _counts(self, request: Request) -> Reply:
        self._sums.begin(request)
        return self._kept(Reply(client=request.client, masked=self._sums.counts(request)))

    def _scores(self, request: Request) -> Reply:
        return self._kept(Reply(client=request.client, masked=self._sums.scores(request)))

    def _kept(self, reply: Reply) -> Reply:
        """Store the client's state before its reply can leave, so that no mask is used twice."""
        self._learner.keep(reply.client, reply.upload)
        return reply

    def _measure(self, requests: Sequence[Request]) -> list[Reply]:
        """Let client models be measured; only in a simulation is that no uncounted release."""
        replies: list[Reply] = []
        for n in range(0, len(requests), TWINS):
            some = requests[n : n + TWINS]
            if self._simulated:
                self._measuring.prepare(some)
            replies += [self._guarded(self._measured, request) for request in some]
        return replies

    def _measured(self, request: Request) -> Reply:
        if not self._simulated:
            raise PermissionError(
                "query.measure: a server asked how good the client's model is, which is computed "
                "from private examples and in no ledger; only a simulation answers"
            )
        return self._measuring.reply(request)

    @cached_property
    def _greeting(self) -> Hello:
        return greeting(self._scenario, simulated=self._simulated)
