"""The round loop: a generator that yields what each round left behind.

Progress display, recording and early stops consume the stream; the loop knows none of them.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from flwr.serverapp import Grid

from fedkd.data.federation import load
from fedkd.errors import BudgetSpent, RunStopped
from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.models.base import initialized, models
from fedkd.privacy.ledger import Ledger
from fedkd.privacy.settings import ServerView
from fedkd.results import SERVER, Failure, Measurement, RoundResult, Traffic
from fedkd.rng import noise_stream, torch_stream
from fedkd.scenario import Scenario
from fedkd.transport.messages import Action, Request
from fedkd.types import Broadcast, Consensus, Knowledge, ProxySet, Update, Upload
from fedkd_server.budget import Budget
from fedkd_server.cohort import cohort
from fedkd_server.exchange import Answers, Exchange
from fedkd_server.masked import Gathered, MaskedSums
from fedkd_server.oracle import Oracle
from fedkd_server.proxy import as_seen_by, gather_proxy
from fedkd_server.student import ServerStudent
from fedkd_server.validation import Expected, UploadError, check_knowledge, check_update


def run_rounds(
    grid: Grid, scenario: Scenario, ledger: Ledger | None = None
) -> Iterator[RoundResult]:
    """Run a scenario over a grid.

    Args:
        grid: carries messages to the clients and back.
        scenario: with every noise multiplier known (``privacy.plan.planned``).
        ledger: charged before every round; None keeps one in memory.

    Yields:
        One result for set-up (round 0) and one for each round. When no client may take part any
        more, because all budgets are spent, or too few for masked sums, the last result has an
        empty cohort, says why, and the run ends.

    Raises:
        RunStopped: too few clients answered.
    """
    run = _Run(grid, scenario, Ledger() if ledger is None else ledger)
    yield run.set_up()
    for n in range(1, scenario.rounds + 1):
        result = run.round(n)
        yield result
        if not result.cohort:
            return


@dataclass(frozen=True, kw_only=True)
class _Heard:
    """The sound uploads of a round, by client, or only their sums, and who failed."""

    uploads: dict[int, Upload]
    failures: list[Failure]
    gathered: Gathered | None = None


class _Run:
    """The server's state between two rounds."""

    def __init__(self, grid: Grid, scenario: Scenario, ledger: Ledger) -> None:
        self._scenario, self._method = scenario, scenario.method
        self._exchange = Exchange(grid, n_clients=scenario.clients)
        arrays = load(scenario.data)
        self._task = arrays.task
        self._input_shape = arrays.input_shape
        self._proxy: ProxySet | None = None
        self._has_proxy: set[int] = set()
        self._broadcast: Broadcast | None = None
        self._student: ServerStudent | None = None
        self._oracle = Oracle(scenario, self._task, None)
        self._masked: MaskedSums | None = None
        self._ledger, self._budget = ledger, Budget(scenario, ledger, n_rows=0)

    def set_up(self) -> RoundResult:
        """Gather the proxy set and make what round 1 starts from."""
        started, answers = time.perf_counter(), Answers()
        if self._method.message is MessageKind.KNOWLEDGE:
            self._proxy, answers = gather_proxy(self._exchange, self._scenario)
            self._oracle = Oracle(self._scenario, self._task, self._proxy)
            if self._scenario.server_model is not None:
                self._student = ServerStudent(self._scenario.server_model, self._scenario)
            if self._scenario.server_view is ServerView.SUMS:
                self._masked = MaskedSums(self._exchange, self._scenario, self._expected())
                self._masked.gather_keys(answers)
        else:
            self._broadcast = self._method.opening(self._fresh_model())
        figures = _bytes(answers) | {"seconds": time.perf_counter() - started}
        if self._proxy is not None:
            self._budget = Budget(self._scenario, self._ledger, n_rows=self._proxy.n_rows)
            figures["proxy_rows"] = self._proxy.n_rows
        return RoundResult(
            round=0,
            cohort=[],
            measurements=[Measurement(0, SERVER, k, float(v)) for k, v in figures.items()],
            failures=answers.failures,
            digest=_digest(self._broadcast),
            traffic=Traffic(broadcast=self._broadcast, proxy=self._proxy),
        )

    def round(self, n: int) -> RoundResult:
        """Do one exchange and measure it."""
        started = time.perf_counter()
        wanted = cohort(self._scenario, self._scenario.participants(), round=n)
        least = 1 if self._masked is None else self._scenario.n_min
        members = self._budget.admit(wanted, round=n, at_least=least, informed=self._has_proxy)
        if len(members) < least:
            return self._budget_spent(wanted, members, n)
        answers = self._exchange.ask(self._requests(members, n))
        self._has_proxy.update(answers.replies)
        spent = self._refusals(answers)
        members = [client for client in members if client not in spent]
        if len(members) < least:
            return self._budget_spent(wanted, members, n)
        heard = self._listen(answers, n)
        self._check_completion(heard, members, n)
        figures: dict[str, float] = {}
        if self._method.message is not MessageKind.NOTHING:
            self._broadcast = self._combine(heard, n)
            figures |= self._about_broadcast(heard.uploads, n)
        if heard.gathered is not None:
            figures |= heard.gathered.figures
        figures |= _bytes(answers) | {"seconds": time.perf_counter() - started}
        measurements = [Measurement(n, SERVER, name, value) for name, value in figures.items()]
        return RoundResult(
            round=n,
            cohort=members,
            measurements=measurements + self._about_clients(members, n),
            failures=heard.failures,
            left_out=[client for client in wanted if client not in members],
            digest=_digest(self._broadcast),
            traffic=Traffic(
                uploads=heard.uploads,
                masked=None if heard.gathered is None else heard.gathered.masked,
                broadcast=self._broadcast,
                student=None if self._student is None else self._student.parameters(),
            ),
        )

    def _refusals(self, answers: Answers) -> list[int]:
        """Take out of ``answers`` the clients whose own ledger refused, and leave them out."""
        refused = [f.client for f in answers.failures if f.reason == BudgetSpent.__name__]
        answers.failures = [f for f in answers.failures if f.client not in refused]
        for client in refused:
            self._budget.refuse(client)
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
            left_out=[client for client in wanted if client not in left],
            digest=_digest(self._broadcast),
            ended=ended,
        )

    def _requests(self, members: Sequence[int], n: int) -> list[Request]:
        requests = [self._request(client, n) for client in members]
        return requests if self._masked is None else self._masked.opening(requests)

    def _request(self, client: int, n: int) -> Request:
        request = Request(action=Action.ROUND, client=client, round=n, incoming=self._broadcast)
        if self._proxy is None or client in self._has_proxy:
            return request
        return replace(request, proxy=as_seen_by(self._proxy, client))

    def _listen(self, answers: Answers, n: int) -> _Heard:
        uploads: dict[int, Upload] = {}
        if self._masked is not None:
            gathered = self._masked.gathered(answers, round=n)
            failures = sorted(answers.failures, key=lambda f: f.client)
            return _Heard(uploads=uploads, failures=failures, gathered=gathered)
        failures = list(answers.failures)
        for client, reply in answers.replies.items():
            try:
                if self._method.message is MessageKind.KNOWLEDGE:
                    uploads[client] = check_knowledge(reply.upload, self._expected())
                elif self._method.message is MessageKind.UPDATE:
                    uploads[client] = check_update(reply.upload, self._broadcast)
            except UploadError as error:
                failures.append(Failure(n, client, f"dropped: {error}"))
        return _Heard(uploads=uploads, failures=sorted(failures, key=lambda f: f.client))

    def _expected(self) -> Expected:
        if not isinstance(self._method, CoDistillation) or self._proxy is None:
            raise RunStopped("a method that exchanges knowledge needs a distiller and a proxy set")
        temperature = self._method.distiller.teacher_temperature
        return Expected(
            space=self._method.distiller.space,
            temperature=temperature,
            n_rows=self._proxy.n_rows,
            n_classes=self._task.n_classes,
            row_temperatures=self._scenario.protector.row_temperatures(temperature=temperature),
        )

    def _check_completion(self, heard: _Heard, members: Sequence[int], n: int) -> None:
        done = len(members) - len(heard.failures)
        if done < self._scenario.min_completion * len(members):
            first = "; ".join(f"client {f.client}: {f.reason}" for f in heard.failures[:5])
            raise RunStopped(
                f"round {n}: only {done} of {len(members)} clients completed, below "
                f"min_completion={self._scenario.min_completion} ({first})"
            )

    def _combine(self, heard: _Heard, n: int) -> Broadcast | None:
        n_rows = 0 if self._proxy is None else self._proxy.n_rows
        rng = noise_stream(self._scenario.noise_seed(), "aggregation", round=n)
        if heard.gathered is not None and isinstance(self._method, CoDistillation):
            return self._method.aggregator.finish(heard.gathered.sums, rng=rng)
        return self._method.server_round(list(heard.uploads.values()), n_rows=n_rows, rng=rng)

    def _about_broadcast(self, uploads: dict[int, Upload], n: int) -> dict[str, float]:
        broadcast = self._broadcast
        if isinstance(broadcast, Update):
            module = self._fresh_model()
            module.load_state_dict(broadcast.arrays)
            return self._oracle.model(module, device=torch.device("cpu"))
        if not isinstance(broadcast, Consensus) or self._proxy is None:
            return {}
        keepers = broadcast.keepers if broadcast.keepers is not None else torch.empty(0)
        figures = {
            "coverage": len(broadcast) / max(1, self._proxy.n_rows),
            "keepers_per_row": float(keepers.double().sum()) / max(1, self._proxy.n_rows),
        }
        knowledge = {c: u for c, u in uploads.items() if isinstance(u, Knowledge)}
        figures |= self._oracle.consensus(broadcast, knowledge)
        if self._student is not None:
            self._student.learn(broadcast, self._proxy, round=n)
            module = self._student.student.module
            figures |= self._oracle.model(module, device=torch.device("cpu"))
        return figures

    def _about_clients(
        self, members: Sequence[int], n: int, *, closing: bool = False
    ) -> list[Measurement]:
        last = closing or n == self._scenario.rounds
        if not last and n % self._scenario.measure_every:
            return []
        clients = self._scenario.participants() if last else members
        clients = [c for c in clients if self._proxy is None or c in self._has_proxy]
        broadcast = self._broadcast
        return self._oracle.clients(self._exchange, clients, broadcast, round=n, closing=last)

    def _fresh_model(self) -> torch.nn.Module:
        model = models.get(self._scenario.client_models()[0])()
        rng = torch_stream(self._scenario.initialization_seed(), "initialisation")
        return initialized(model, self._input_shape, self._task.n_classes, rng=rng)


def _bytes(answers: Answers) -> dict[str, float]:
    figures: Counter[str] = Counter()
    for direction, sizes in (("down", answers.bytes_down), ("up", answers.bytes_up)):
        for kind, size in sizes.items():
            figures[f"bytes_{direction}.{kind}"] += size
    return {name: float(size) for name, size in figures.items()}


def _digest(broadcast: Broadcast | None) -> str:
    if broadcast is None:
        return ""
    sha = hashlib.sha256()
    if isinstance(broadcast, Update):
        tensors = list(broadcast.arrays.values())
    else:
        tensors = [broadcast.rows, broadcast.scores]
        if broadcast.row_temperatures is not None:
            tensors.append(broadcast.row_temperatures)
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
