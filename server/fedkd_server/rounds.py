"""The round loop: a generator that yields what each round left behind.

Progress display, recording and early stops consume the stream; the loop knows none of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from flwr.serverapp import Grid

from fedkd.checkpoints import Checkpoint, Checkpoints
from fedkd.data.federation import load
from fedkd.errors import BudgetSpent
from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.privacy.ledger import Ledger
from fedkd.privacy.settings import ServerView
from fedkd.results import SERVER, Failure, Measurement, RoundResult, Traffic
from fedkd.rng import noise_stream
from fedkd.scenario import Scenario
from fedkd.steps import reached
from fedkd.transport.codes import as_sent
from fedkd.transport.hello import greeting
from fedkd.transport.messages import Action, Request
from fedkd.types import Broadcast, Consensus, ProxySet, Update
from fedkd_server.budget import Budget
from fedkd_server.cohort import cohort
from fedkd_server.exchange import Answers, Exchange
from fedkd_server.intake import UploadIntake
from fedkd_server.listening import Ears, Heard, byte_figures
from fedkd_server.masked import MaskedSums
from fedkd_server.memory import Memory, digest_of
from fedkd_server.oracle import Oracle, first_model
from fedkd_server.proxy import gather_proxy
from fedkd_server.student import ServerStudent
from fedkd_server.turnout import check_simulated, check_turnout, wait_of
from fedkd_server.virtual_time import virtual_time


def run_rounds(
    grid: Grid,
    scenario: Scenario,
    ledger: Ledger | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
) -> Iterator[RoundResult]:
    """Run a scenario over a grid.

    Args:
        grid: carries messages to the clients and back.
        scenario: with every noise multiplier known (``privacy.plan.planned``).
        ledger: charged before every round; None keeps one in memory.
        checkpoints: where one is written after each round; None writes none.
        resumed: the checkpoint to go on from; None begins with set-up.

    Yields:
        One result for set-up (round 0) and one for each round. When no client may take part any
        more, because all budgets are spent, or too few for masked sums, the last result has an
        empty cohort, says why, and the run ends.

    Raises:
        RunStopped: too few clients answered.
    """
    run = _Run(grid, scenario, Ledger() if ledger is None else ledger)
    if resumed is None:
        yield run.set_up()
    else:
        run.resume(resumed)
    for n in range(1 if resumed is None else resumed.round + 1, scenario.rounds + 1):
        if checkpoints is not None and checkpoints.due(n - 1):
            run.keep(checkpoints, n - 1)
        result = run.round(n)
        yield result
        if not result.cohort:
            return


class _Run:
    """The server's state between two rounds."""

    def __init__(self, grid: Grid, scenario: Scenario, ledger: Ledger) -> None:
        self._scenario, self._method = scenario, scenario.method
        self._exchange = Exchange(
            grid, n_clients=scenario.clients, greeting=greeting(scenario), wait=wait_of(scenario)
        )
        check_simulated(scenario, self._exchange.simulated)
        arrays = load(scenario.data)
        self._task = arrays.task
        self._now = Memory()
        self._oracle = Oracle(scenario, self._task, None)
        self._intake = UploadIntake(scenario)
        self._ears = Ears(scenario, self._exchange, self._intake)
        self._ledger, self._budget = ledger, Budget(scenario, ledger, n_rows=0)

    def set_up(self) -> RoundResult:
        """Gather the proxy set and make what round 1 starts from."""
        started, answers = time.perf_counter(), Answers()
        if self._method.message is MessageKind.KNOWLEDGE:
            proxy, answers = gather_proxy(self._exchange, self._scenario)
            self._prepare(proxy)
            if self._now.masked is not None:
                self._now.masked.gather_keys(answers)
        else:
            self._now.broadcast = self._method.opening(first_model(self._scenario))
        figures = byte_figures(down=answers.bytes_down, up=answers.bytes_up) | {
            "seconds": time.perf_counter() - started
        }
        if self._now.proxy is not None:
            figures["proxy_rows"] = self._now.proxy.n_rows
        return RoundResult(
            round=0,
            cohort=[],
            measurements=[Measurement(0, SERVER, k, float(v)) for k, v in figures.items()],
            failures=answers.failures,
            digest=digest_of(self._now.broadcast),
            traffic=Traffic(broadcast=self._now.broadcast, proxy=self._now.proxy),
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint in place of set-up."""
        proxy = checkpoint.proxy()
        if proxy is not None:
            self._prepare(proxy)
        self._now.recall(checkpoint.facts, checkpoint.parts())
        self._settle()

    def keep(self, checkpoints: Checkpoints, n: int) -> None:
        """Write a checkpoint of the state after round ``n``."""
        checkpoints.write(
            n,
            facts=self._now.facts(),
            parts=self._now.parts(),
            proxy=self._now.proxy,
            clients=self._exchange.save,
        )

    def _prepare(self, proxy: ProxySet) -> None:
        """Make what needs the proxy set."""
        self._now.proxy = proxy
        self._exchange.learn(proxy, self._intake)
        self._oracle = Oracle(self._scenario, self._task, proxy)
        if self._scenario.server_model is not None:
            self._now.student = ServerStudent(self._scenario.server_model, self._scenario)
        if self._scenario.server_view is ServerView.SUMS:
            self._now.masked = MaskedSums(self._exchange, self._scenario, self._intake.expected())
        self._settle()

    def _settle(self) -> None:
        self._budget = Budget(
            self._scenario, self._ledger, n_rows=self._now.n_rows, refused=self._now.refused
        )

    def round(self, n: int) -> RoundResult:
        """Do one exchange and measure it."""
        started = time.perf_counter()
        reached("begun", n)
        self._now.has_proxy -= self._exchange.forgotten()
        wanted = cohort(self._scenario, self._scenario.participants(), round=n)
        least = 1 if self._now.masked is None else self._scenario.n_min
        members = self._budget.admit(wanted, round=n, at_least=least, informed=self._now.has_proxy)
        if len(members) < least:
            return self._budget_spent(wanted, members, n)
        reached("admitted", n)
        heard = self._ears.listen(self._requests(members, n), self._now, round=n)
        reached("answered", n)
        self._now.has_proxy.update(heard.harvest.answered)
        self._now.has_proxy -= self._exchange.forgotten()
        spent = self._refusals(heard)
        members = _without(members, spent)
        if len(members) < least:
            return self._budget_spent(wanted, members, n)
        stood_in = list(heard.harvest.stand_ins)
        check_turnout(self._scenario, heard.failures, members=members, stood_in=stood_in, round=n)
        figures: dict[str, float] = {}
        if self._method.message is not MessageKind.NOTHING:
            self._now.broadcast = self._combine(heard, n)
            figures |= self._about_broadcast(heard.harvest.tallies, n)
        reached("combined", n)
        if heard.gathered is not None:
            figures |= heard.gathered.figures
        figures |= byte_figures(down=heard.bytes_down, up=heard.harvest.bytes_up)
        figures["seconds"] = time.perf_counter() - started  # measuring models is no part of it
        figures |= self._about_server_model()
        measurements = [Measurement(n, SERVER, name, value) for name, value in figures.items()]
        measurements += virtual_time(self._scenario, heard.harvest, round=n)
        measurements += self._about_clients(members, n)
        reached("measured", n)
        return RoundResult(
            round=n,
            cohort=members,
            measurements=measurements,
            failures=heard.failures,
            refused=[Failure(n, *refused) for refused in heard.harvest.refused],
            stood_in=stood_in,
            left_out=_without(wanted, members),
            digest=digest_of(self._now.broadcast),
            traffic=Traffic(
                uploads=heard.harvest.uploads,
                masked=None if heard.gathered is None else heard.gathered.masked,
                broadcast=self._now.broadcast,
                student=None if self._now.student is None else self._now.student.parameters(),
            ),
        )

    def _refusals(self, heard: Heard) -> list[int]:
        """Take out of the failures the clients whose own ledger refused, and leave them out."""
        refused = [f.client for f in heard.failures if f.reason == BudgetSpent.__name__]
        heard.failures[:] = [f for f in heard.failures if f.client not in refused]
        for client in refused:
            self._now.refused.add(client)
        return refused

    def _budget_spent(self, wanted: Sequence[int], left: Sequence[int], n: int) -> RoundResult:
        """Return the result of a round that too few could afford: the closing measurements."""
        ended = f"no client has privacy budget left for round {n}"
        if left:
            ended = (
                f"{len(left)} of {len(wanted)} clients have privacy budget left for round {n}, "
                f"too few for masked sums with n_min={self._scenario.n_min}"
            )
        return RoundResult(
            round=n,
            cohort=[],
            measurements=self._about_clients([], n, closing=True),
            left_out=_without(wanted, left),
            digest=digest_of(self._now.broadcast),
            ended=ended,
        )

    def _requests(self, members: Sequence[int], n: int) -> list[Request]:
        requests = [self._request(client, n) for client in members]
        return requests if self._now.masked is None else self._now.masked.opening(requests)

    def _request(self, client: int, n: int) -> Request:
        request = Request(action=Action.ROUND, client=client, round=n, incoming=self._now.broadcast)
        if self._now.proxy is None or client in self._now.has_proxy:
            return request
        return replace(request, proxy=self._now.proxy.seen_by(client))

    def _combine(self, heard: Heard, n: int) -> Broadcast | None:
        rng = noise_stream(self._scenario.noise_seed(), "aggregation", round=n)
        if heard.gathered is not None and isinstance(self._method, CoDistillation):
            made = self._method.aggregator.finish(heard.gathered.sums, rng=rng)
        else:
            made = self._method.finish(heard.state, rng=rng)
        return None if made is None else as_sent(made, self._scenario.wire)

    def _about_broadcast(self, tallies: Mapping[str, float], n: int) -> dict[str, float]:
        broadcast = self._now.broadcast
        if not isinstance(broadcast, Consensus) or self._now.proxy is None:
            return {}
        keepers = broadcast.keepers if broadcast.keepers is not None else torch.empty(0)
        figures = {
            "coverage": len(broadcast) / max(1, self._now.proxy.n_rows),
            "keepers_per_row": float(keepers.double().sum()) / max(1, self._now.proxy.n_rows),
        }
        figures |= self._oracle.consensus(broadcast, tallies)
        if self._now.student is not None:
            self._now.student.learn(broadcast, self._now.proxy, round=n)
        return figures

    def _about_server_model(self) -> dict[str, float]:
        """Measure the average of the clients' parameters, or the student."""
        broadcast, student = self._now.broadcast, self._now.student
        if isinstance(broadcast, Update):
            return self._oracle.update(broadcast)
        if student is None or not isinstance(broadcast, Consensus):
            return {}
        return self._oracle.model(student.student.module, device=torch.device("cpu"))

    def _about_clients(
        self, members: Sequence[int], n: int, *, closing: bool = False
    ) -> list[Measurement]:
        last = closing or n == self._scenario.rounds
        if not last and n % self._scenario.measure_every:
            return []
        clients = self._scenario.participants() if last else members
        clients = [c for c in clients if self._now.proxy is None or c in self._now.has_proxy]
        broadcast = self._now.broadcast
        return self._oracle.clients(self._exchange, clients, broadcast, round=n, closing=last)


def _without(clients: Sequence[int], some: Iterable[int]) -> list[int]:
    """Return those of the clients that are not among some, in their order."""
    gone = set(some)
    return [client for client in clients if client not in gone]
