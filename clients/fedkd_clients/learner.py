"""Trains and queries any number of clients, in the blocks that the executors' table says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from fedkd.data.federation import load, true_labels
from fedkd.distillers.base import Distiller
from fedkd.features.base import Features, Transform
from fedkd.features.pca import PCA
from fedkd.filters.base import ClientView, Filter
from fedkd.models.base import initialized, models
from fedkd.privacy.events import Event, Nothing
from fedkd.rng import borrowed, noise_stream, torch_stream
from fedkd.scenario import Scenario
from fedkd.scorers.density import closeness
from fedkd.tasks import Task
from fedkd.training.executors.base import Executor
from fedkd.training.executors.choice import EXECUTORS, Choice, choose
from fedkd.training.packing import Packing
from fedkd.training.steps import Examples, Job, Lesson, Student, figures, lesson_on, predict_rows
from fedkd.types import Consensus, ProxySet, Update
from fedkd_clients.private_data import PrivateData, private_data
from fedkd_clients.store import ClientState, ClientStore, MemoryStore

logger = logging.getLogger("fedkd.client")

HELD = 2048
"""Clients whose private examples stay in memory; those of others are read again when needed."""


class FleetLearner:
    """Implements ``fedkd.methods.base.Learner`` over rows of numbers, one a client.

    A client that raises is left as it was and takes no further part in the round; the others go
    on (:meth:`take_failure`).
    """

    def __init__(self, scenario: Scenario, store: ClientStore, *, device: torch.device) -> None:
        arrays = load(scenario.data)
        self._scenario, self._store, self._device = scenario, store, device
        self._input_shape = arrays.input_shape
        self._architectures = scenario.client_models()
        self._packings: dict[str, Packing] = {}
        self._choices: dict[str, Choice] = {}
        self._desks: dict[str, nn.Module] = {}
        self._live: dict[int, ClientState] = {}
        self._spaces: dict[tuple[Features, int], tuple[Transform, Tensor]] = {}
        self._spent: dict[int, list[Event]] = {}
        self._failures: dict[int, Exception] = {}
        self._taught: tuple[Consensus, Distiller, Tensor, Lesson] | None = None
        self.task: Task = arrays.task

        @lru_cache(maxsize=HELD)
        def private(client: int) -> PrivateData:
            return private_data(scenario, client, device=device)

        self.private: Callable[[int], PrivateData] = private
        self.round = 0

    def state(self, client: int) -> ClientState:
        """Return what the client carries, made from its initialization stream at first."""
        if client not in self._live:
            packing = self.packing(client)
            row = self._store.row(client, width=packing.width, device=self._device)
            state = ClientState(row=row)
            if not self._store.get(client, state):
                packing.write(row, self._fresh(client))
            self._live[client] = state
        return self._live[client]

    def keep(self, client: int) -> None:
        """Store the client's state."""
        self._store.put(client, self.state(client))

    def packing(self, client: int) -> Packing:
        """Return how the client's row is laid out."""
        name = self._architectures[client]
        if name not in self._packings:
            self._packings[name] = Packing(self._fresh(client), self._scenario.training)
        return self._packings[name]

    def choice(self, client: int) -> Choice:
        """Return how clients of this one's architecture are run."""
        name = self._architectures[client]
        if name not in self._choices:
            self._choices[name] = choose(
                self.packing(client).template,
                device=self._device,
                pinned=self._scenario.runtime.executor,
            )
        return self._choices[name]

    def student(self, client: int) -> Student:
        """Return a module and an optimiser over the client's row, for code that wants those."""
        return self.packing(client).student(self.state(client).row)

    def take_failure(self, client: int) -> Exception | None:
        """Return what the client raised since the last call, or None."""
        return self._failures.pop(client, None)

    def copies(self, clients: Sequence[int]) -> FleetLearner:
        """Return a learner over copies of these clients' models, to be thrown away."""
        twin = FleetLearner(self._scenario, MemoryStore(), device=self._device)
        twin.private, twin.round = self.private, self.round
        for client in clients:
            original = self.state(client)
            twin._live[client] = ClientState(row=original.row.clone(), proxy=original.proxy)
        return twin

    def fit(
        self, clients: Sequence[int], teacher: Consensus | None, distiller: Distiller | None
    ) -> None:
        """Train each client for one round; through DP-SGD where the scenario says so."""
        if self._scenario.privacy.dp_sgd:
            for client in clients:
                self._guarded(client, lambda c: self._train_privately(c, teacher, distiller))
            return

        def job(client: int) -> Job:
            lesson = self._lesson(client, teacher, distiller)
            return self._job(client, self.private(client).train, lesson, "training")

        self._carry_out(clients, job)

    def distill(self, clients: Sequence[int], teacher: Consensus, distiller: Distiller) -> None:
        """Take one pass over the teacher."""

        def job(client: int) -> Job:
            lesson = self._lesson(client, teacher, distiller)
            train = self.private(client).train
            nothing = Examples(inputs=train.inputs[:0], labels=train.labels[:0])
            return self._job(client, nothing, lesson, "distillation")

        self._carry_out(clients, job)

    def weigh(self, clients: Sequence[int], filter: Filter) -> list[Tensor]:
        """Fit the filter once for each proxy version; return its weights of this round's rows."""
        found: list[Tensor] = []
        for client in clients:
            weights = self._guarded(client, lambda c: self._weights(c, filter))
            found.append(torch.zeros(0) if weights is None else self._asked(client, weights))
        return found

    def predict(self, clients: Sequence[int], rows: Sequence[Tensor]) -> list[Tensor]:
        """Predict the given proxy rows only."""
        nothing, found = torch.zeros(0, self.task.n_classes), list[Tensor]()
        for client, some in zip(clients, rows, strict=True):
            logits = self._guarded(client, lambda c, some=some: self._logits(c, some))
            found.append(nothing if logits is None else logits)
        return found

    def take_events(self, client: int) -> list[Event]:
        """Return what the client's private examples were really used for since the last call."""
        return self._spent.pop(client, [])

    def parameters(self, clients: Sequence[int]) -> list[Update]:
        """Return copies of the parameters, weighted by example counts; with DP-SGD, equally.

        The number of examples is private, and no mechanism pays for it.
        """
        private = self._scenario.privacy.dp_sgd
        return [
            Update(
                arrays=self._arrays(client),
                weight=1.0 if private else float(len(self.private(client).train)),
            )
            for client in clients
        ]

    def load_parameters(self, clients: Sequence[int], update: Update) -> None:
        """Overwrite the parameters; the optimisers keep their state."""
        for client in clients:
            module = self._desk(client)
            module.load_state_dict(update.arrays)
            self.packing(client).keep_buffers(self.state(client).row, module)

    def closeness(self, client: int) -> Tensor:
        """Return how close each proxy row lies to the client's examples, float32 ``[proxy]``.

        Between 0 and 1, by distances after PCA. Privacy: reads private examples directly.
        """
        transform, shared = self._features(PCA(), self._proxy(client))
        return closeness(transform(self.private(client).train.inputs), shared)

    def figures(self, client: int, examples: Examples) -> dict[str, float]:
        """Return the metrics of the client's model on ``examples``; empty for none."""
        batch = self.choice(client).prediction_batch
        return figures(self._desk(client), examples, task=self.task, batch=batch)

    def _guarded(self, client: int, do: Callable[[int], Result]) -> Result | None:
        """Do something for one client; what it raises is kept, and ends the client's round."""
        if client in self._failures:
            return None
        try:
            return do(client)
        except Exception as error:
            logger.exception("client %d failed in round %d", client, self.round)
            self._failures[client] = error
            return None

    def _job(self, client: int, private: Examples, lesson: Lesson | None, purpose: str) -> Job:
        return Job(
            private=private,
            lesson=lesson,
            recipe=self._scenario.training,
            task=self.task,
            order=self._stream(purpose, client),
            module=self._stream("module", client),
        )

    def _carry_out(self, clients: Sequence[int], make: Callable[[int], Job]) -> None:
        """Train in blocks of one architecture; a block that fails is tried client by client."""
        made = {client: self._guarded(client, make) for client in clients}
        jobs = {client: job for client, job in made.items() if job is not None}
        for block in self._blocks(list(jobs)):
            executor = EXECUTORS[self.choice(block[0]).executor]
            try:
                self._train(block, [jobs[client] for client in block], executor)
            except Exception:
                for client in block:
                    self._guarded(client, lambda c: self._train([c], [make(c)], _SERIAL))

    def _blocks(self, clients: Sequence[int]) -> list[list[int]]:
        groups: dict[str, list[int]] = {}
        for client in clients:
            groups.setdefault(self._architectures[client], []).append(client)
        blocks: list[list[int]] = []
        for members in groups.values():
            size = self.choice(members[0]).block
            blocks += [members[n : n + size] for n in range(0, len(members), size)]
        return blocks

    def _train(self, block: Sequence[int], jobs: Sequence[Job], executor: Executor) -> None:
        """Train copies of the rows, so that what fails leaves the clients as they were."""
        rows = torch.stack([self.state(client).row for client in block])
        executor.train(rows, jobs, packing=self.packing(block[0]))
        for client, row in zip(block, rows, strict=True):
            self.state(client).row.copy_(row)

    def _desk(self, client: int) -> nn.Module:
        """Return the one module of the client's architecture, with the client's parameters."""
        name, packing = self._architectures[client], self.packing(client)
        if name not in self._desks:
            self._desks[name] = packing.module(self.state(client).row)
        packing.attach(self._desks[name], self.state(client).row)
        return self._desks[name]

    def _logits(self, client: int, rows: Tensor) -> Tensor:
        return predict_rows(
            self._desk(client),
            self._proxy(client).inputs,
            rows,
            rows_per_input=self.task.rows_per_input,
            batch=self.choice(client).prediction_batch,
        )

    def _arrays(self, client: int) -> dict[str, Tensor]:
        module = self._desk(client)
        return {name: value.detach().clone() for name, value in module.state_dict().items()}

    def _train_privately(
        self, client: int, teacher: Consensus | None, distiller: Distiller | None
    ) -> None:
        from fedkd_clients.dp_training import Streams, dp_train_round  # seconds to import

        streams = Streams(
            sampling=self._secret("dp-sampling", client),
            noise=self._secret("dp-noise", client),
            module=self._secret("dp-module", client),
            order=self._stream("training", client),
        )
        packing, row = self.packing(client), self.state(client).row.clone()
        student = packing.student(row)
        with borrowed(self._stream("module", client)):
            event = dp_train_round(
                student,
                self.private(client).train,
                self._lesson(client, teacher, distiller),
                scenario=self._scenario,
                task=self.task,
                streams=streams,
            )
        packing.count(row, student)
        self.state(client).row.copy_(row)
        self._spent.setdefault(client, []).append(event)

    def _fresh(self, client: int) -> nn.Module:
        seed = self._scenario.initialization_seed()
        module = initialized(
            models.get(self._architectures[client])(),
            self._input_shape,
            self.task.n_classes,
            rng=torch_stream(seed, "initialisation", client=client),
        )
        return module.to(self._device)

    def _stream(self, purpose: str, client: int) -> torch.Generator:
        seed = self._scenario.training_seed()
        return torch_stream(seed, purpose, round=self.round, client=client)

    def _secret(self, purpose: str, client: int) -> torch.Generator:
        seed = self._scenario.noise_seed()
        return noise_stream(seed, purpose, round=self.round, client=client)

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
        inputs, taught = self._proxy(client).inputs, self._taught
        wanted = (teacher, distiller, inputs)
        if taught is None or any(a is not b for a, b in zip(taught[:3], wanted, strict=True)):
            lesson = lesson_on(
                teacher, inputs, distiller=distiller, rows_per_input=self.task.rows_per_input
            )
            taught = self._taught = (teacher, distiller, inputs, lesson)
        return taught[3]

    def _weights(self, client: int, filter: Filter) -> Tensor:
        state = self.state(client)
        if state.weights is None:
            view, event = self._view(client, filter), filter.event()
            rng = torch_stream(self._scenario.training_seed(), "filter", client=client)
            if filter.reads_private and event.counted:
                rng = self._secret("filter", client)
            fitted = filter.fit(view, rng=rng)
            state.weights = filter.weights(fitted, view).to(self._device)
            if event != Nothing():
                self._spent.setdefault(client, []).append(event)
        return state.weights

    def _asked(self, client: int, weights: Tensor) -> Tensor:
        """Return the weights of the rows that this round asks about; the others are zero."""
        proxy = self._proxy(client)
        asked = self._scenario.asked(len(proxy), round=self.round)
        if asked is None:
            return weights
        return weights * asked.to(weights.device).repeat_interleave(proxy.rows_per_input)

    def _view(self, client: int, filter: Filter) -> ClientView:
        data, proxy = self.private(client), self._proxy(client)
        private, shared = data.train.inputs.flatten(1), proxy.inputs.flatten(1)
        if filter.space is not None:
            transform, shared = self._features(filter.space, proxy)
            private = transform(data.train.inputs)
        own = torch.zeros(proxy.n_rows, dtype=torch.bool, device=self._device)
        labels = None
        if proxy.owner is not None:
            mine = (proxy.owner == client).to(self._device)
            own = mine.repeat_interleave(proxy.rows_per_input)
        if filter.oracle:
            known = true_labels(self._scenario.layout(), proxy.ids.cpu().numpy())
            labels = torch.from_numpy(known).to(self._device)
        return ClientView(
            private=private,
            contributed=data.contributed.to(self._device),
            proxy=shared,
            own=own,
            labels=data.train.labels,
            n_classes=self.task.n_classes,
            proxy_labels=labels,
        )

    def _features(self, space: Features, proxy: ProxySet) -> tuple[Transform, Tensor]:
        key = (space, proxy.version)
        if key not in self._spaces:
            transform = space.fit(proxy.inputs)
            self._spaces[key] = (transform, transform(proxy.inputs))
        return self._spaces[key]


Result = TypeVar("Result")
_SERIAL = EXECUTORS["serial"]
