"""Trains and queries any number of clients, in the blocks that the executors' table says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.data.federation import load
from fedkd.distillers.base import Distiller
from fedkd.features.pca import PCA
from fedkd.filters.base import Filter
from fedkd.privacy.events import Event, Nothing
from fedkd.rng import borrowed, torch_stream
from fedkd.scenario import Scenario
from fedkd.scorers.density import closeness
from fedkd.tasks import Task
from fedkd.training.executors.base import Executor
from fedkd.training.executors.choice import EXECUTORS, cached_block
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing
from fedkd.training.steps import Examples, Lesson, figures, predict_rows
from fedkd.types import Consensus, ProxySet, Update, Upload
from fedkd_clients.architectures import Architectures
from fedkd_clients.bank import Bank
from fedkd_clients.dp_training import Streams, dp_train_round
from fedkd_clients.guard import Guard
from fedkd_clients.lessons import Lessons
from fedkd_clients.own_data import held_by
from fedkd_clients.private_data import PrivateData
from fedkd_clients.state import ClientState
from fedkd_clients.store import ClientStore, MemoryStore
from fedkd_clients.streams import ClientStreams
from fedkd_clients.views import Views

HELD = 2048
"""Clients whose private examples stay in memory; those of others are read again when needed."""


class FleetLearner:
    """Implements ``fedkd.methods.base.Learner`` over rows of numbers, one a client.

    A client that raises is left as it was, and the others go on (``guard``).
    """

    def __init__(
        self, scenario: Scenario, store: ClientStore, *, device: torch.device, own: str = ""
    ) -> None:
        arrays = load(scenario.data)
        self._scenario, self._store, self._device = scenario, store, device
        self._models = Architectures(scenario, device=device)
        self._views = Views(scenario, arrays.task, device=device)
        self._live: dict[int, ClientState] = {}
        self._spent: dict[int, list[Event]] = {}
        self.guard = Guard()
        self._lessons = Lessons(rows_per_input=arrays.task.rows_per_input)
        self.task: Task = arrays.task

        @lru_cache(maxsize=HELD)
        def private(client: int) -> PrivateData:
            return held_by(scenario, client, own=own, device=device)

        self.private: Callable[[int], PrivateData] = private
        self.streams = ClientStreams(scenario)

    def share_rows(self) -> None:
        """Keep rows in memory that processes forked from now on share; before any is made."""
        clients = range(self._scenario.clients)
        self._store = Bank([self._models.packing(client).width for client in clients])

    def together(self) -> int:
        """Return how many clients' rows stay in the cache, of the largest of their models."""
        clients = range(self._scenario.clients)
        kinds = self._models.packings(clients)
        return min(cached_block(one.size, slots=len(one.slots)) for one in kinds)

    def state(self, client: int) -> ClientState:
        """Return what the client carries; of a new one, nothing yet but where its model begins."""
        if client not in self._live:
            state = self._models.newcomer(client)
            if self._store.holds(client):
                self._store.get(client, state)
            self._live[client] = state
        return self._live[client]

    def receive(self, client: int, proxy: ProxySet) -> None:
        """Give the client another proxy set; its filter is fitted anew."""
        state = self.state(client)
        state.proxy, state.weights = self._views.placed(proxy), None

    def keep(self, client: int, answer: Upload | None = None) -> None:
        """Store the client's state, and its upload where the store keeps those."""
        state = self.state(client)
        if answer is not None and self._store.keeps_answers:
            state.answer = answer
        self._store.put(client, state)

    def known(self, clients: Sequence[int]) -> list[int]:
        """Return those of the clients that have a state by now."""
        return [c for c in clients if c in self._live or self._store.holds(c)]

    def packing(self, client: int) -> Packing:
        """Return how the client's row is laid out."""
        return self._models.packing(client)

    def copies(self, clients: Sequence[int]) -> FleetLearner:
        """Return a learner over copies of these clients' models, to be thrown away."""
        twin = FleetLearner(self._scenario, MemoryStore(), device=self._device)
        twin.private, twin.streams, twin._models = self.private, self.streams, self._models
        for client in clients:
            twin._live[client] = self.state(client).twin()
        return twin

    def fit(
        self, clients: Sequence[int], teacher: Consensus | None, distiller: Distiller | None
    ) -> None:
        """Train each client for one round; through DP-SGD where the scenario says so."""
        if self._scenario.privacy.dp_sgd:
            for client in clients:
                self.guard.do(client, lambda c: self._train_privately(c, teacher, distiller))
            return

        def read(client: int) -> tuple[Examples, Lesson | None]:
            return self.private(client).train, self._lesson(client, teacher, distiller)

        self._carry_out(clients, read, purpose="training")

    def distill(self, clients: Sequence[int], teacher: Consensus, distiller: Distiller) -> None:
        """Take one pass over the teacher."""

        def read(client: int) -> tuple[Examples, Lesson | None]:
            train = self.private(client).train
            nothing = Examples(inputs=train.pool[:0], labels=train.labels[:0])
            return nothing, self._lesson(client, teacher, distiller)

        self._carry_out(clients, read, purpose="distillation")

    def weigh(self, clients: Sequence[int], filter: Filter) -> list[Tensor]:
        """Fit the filter once for each proxy version; return its weights of this round's rows."""
        found: list[Tensor] = []
        for client in clients:
            weights = self.guard.do(client, lambda c: self._weights(c, filter))
            found.append(torch.zeros(0) if weights is None else weights)
        return found

    def predict(self, clients: Sequence[int], rows: Sequence[Tensor]) -> list[Tensor]:
        """Predict the given proxy rows only."""
        nothing, found = torch.zeros(0, self.task.n_classes), list[Tensor]()
        for client, some in zip(clients, rows, strict=True):
            logits = self.guard.do(client, lambda c, some=some: self._logits(c, some))
            found.append(nothing if logits is None else logits)
        return found

    def take_events(self, client: int) -> list[Event]:
        """Return what the client's private examples were really used for since the last call."""
        return self._spent.pop(client, [])

    def parameters(self, clients: Sequence[int]) -> list[Update]:
        """Return them weighted by example counts; equally under DP-SGD, which pays for none."""
        private, found = self._scenario.privacy.dp_sgd, dict[int, Update]()
        for members in self._models.alike(clients):
            states = [self.state(client) for client in members]
            given = self._models.parameters(states, client=members[0])
            for client, arrays in zip(members, given, strict=True):
                weight = 1.0 if private else float(len(self.private(client).train))
                found[client] = Update(arrays=arrays, weight=weight)
        return [found[client] for client in clients]

    def load_parameters(self, clients: Sequence[int], update: Update) -> None:
        """Overwrite the parameters; the optimisers keep their state."""
        for members in self._models.alike(clients):
            self.guard.together(members, lambda some: self._load(some, update))

    def _load(self, clients: Sequence[int], update: Update) -> None:
        self._models.load([self.state(c) for c in clients], update, client=clients[0])

    def closeness(self, client: int) -> Tensor:
        """Return float32 ``[proxy]`` in [0, 1], how close each row lies; reads private examples."""
        transform, shared = self._views.features(PCA(), self._proxy(client))
        return closeness(transform(self.private(client).train.inputs), shared)

    def figures(self, client: int, examples: Examples) -> dict[str, float]:
        """Return the metrics of the client's model on ``examples``; empty for none."""
        batch = self._models.choice(client).prediction_batch
        return figures(
            self._models.desk(client, self.state(client).row), examples, task=self.task, batch=batch
        )

    def _carry_out(
        self,
        clients: Sequence[int],
        read: Callable[[int], tuple[Examples, Lesson | None]],
        *,
        purpose: str,
    ) -> None:
        """Train in blocks of one architecture; a block that fails is tried client by client."""
        models, streams, jobs = self._models, self.streams, dict[int, Job]()

        def make(client: int, order: torch.Generator) -> Job:
            private, lesson = read(client)
            return Job(
                private=private,
                lesson=lesson,
                recipe=self._scenario.training,
                task=self.task,
                order=order,
                module=streams.training("module", client) if models.draws(client) else None,
            )

        def together(block: Sequence[int]) -> None:
            executor = EXECUTORS[models.choice(block[0]).executor]
            self._train(block, [jobs[client] for client in block], executor)

        def alone(client: int) -> None:
            job = make(client, streams.training(purpose, client))
            usual = models.choice(client).executor  # of lean, a client's bits are its own
            self._train([client], [job], EXECUTORS["lean" if usual == "lean" else "serial"])

        for client, order in zip(clients, streams.of_all(purpose, clients), strict=True):
            job = self.guard.do(client, lambda c, order=order: make(c, order))
            if job is not None:
                jobs[client] = job
        for block in models.blocks(list(jobs)):
            self.guard.together(block, together, alone=alone)

    def _train(self, block: Sequence[int], jobs: Sequence[Job], executor: Executor) -> None:
        states = [self.state(client) for client in block]
        with self._models.drafts(states, client=block[0]) as rows:
            executor.train(rows, jobs, packing=self.packing(block[0]))

    def _logits(self, client: int, rows: Tensor) -> Tensor:
        return predict_rows(
            self._models.desk(client, self.state(client).row),
            self._views.read(self._proxy(client)),
            rows,
            rows_per_input=self.task.rows_per_input,
            batch=self._models.choice(client).prediction_batch,
        )

    def _train_privately(
        self, client: int, teacher: Consensus | None, distiller: Distiller | None
    ) -> None:
        streams = Streams(
            sampling=self.streams.secret("dp-sampling", client),
            noise=self.streams.secret("dp-noise", client),
            module=self.streams.secret("dp-module", client),
            order=self.streams.training("training", client),
        )
        packing, row = self.packing(client), self.state(client).row.clone()
        student = packing.student(row)
        with borrowed(self.streams.training("module", client)):
            event = dp_train_round(
                student,
                self.private(client).train,
                self._lesson(client, teacher, distiller),
                scenario=self._scenario,
                task=self.task,
                streams=streams,
            )
        packing.count(row, student)
        self.state(client).draft(row)
        self._spent.setdefault(client, []).append(event)

    def _proxy(self, client: int) -> ProxySet:
        proxy = self.state(client).proxy
        if proxy is None:
            raise RuntimeError(f"client {client} was asked about a proxy set it was never sent")
        return proxy

    def _lesson(
        self, client: int, teacher: Consensus | None, distiller: Distiller | None
    ) -> Lesson | None:
        if teacher is None or distiller is None:
            return None
        return self._lessons.on(teacher, self._proxy(client), distiller)

    def _weights(self, client: int, filter: Filter) -> Tensor:
        state = self.state(client)
        if state.weights is None:
            data, event = self.private(client), filter.event()
            view = self._views.view(client, filter, data=data, proxy=self._proxy(client))
            rng = torch_stream(self._scenario.training_seed(), "filter", client=client)
            if filter.reads_private and event.counted:
                rng = self.streams.secret("filter", client)
            fitted = filter.fit(view, rng=rng)
            state.weights = filter.weights(fitted, view).to(self._device)
            if event != Nothing():
                self._spent.setdefault(client, []).append(event)
        return self._views.asked(state.weights, self._proxy(client), round=self.streams.round)
