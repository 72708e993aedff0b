"""The reference learner: it trains and queries clients one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

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
from fedkd.training.steps import (
    Examples,
    Lesson,
    Student,
    distil_pass,
    figures,
    lesson_on,
    make_optimizer,
    predict_rows,
    train_round,
)
from fedkd.types import Consensus, ProxySet, Update
from fedkd_clients.private_data import PrivateData, private_data
from fedkd_clients.store import ClientState, ClientStore, MemoryStore


class SerialLearner:
    """Implements ``fedkd.methods.base.Learner`` with plain modules and optimisers."""

    def __init__(self, scenario: Scenario, store: ClientStore, *, device: torch.device) -> None:
        arrays = load(scenario.data)
        self._scenario, self._store, self._device = scenario, store, device
        self._input_shape = arrays.input_shape
        self._architectures = scenario.client_models()
        self._live: dict[int, ClientState] = {}
        self._spaces: dict[tuple[Features, int], tuple[Transform, Tensor]] = {}
        self._spent: dict[int, list[Event]] = {}
        self.task: Task = arrays.task

        @cache
        def private(client: int) -> PrivateData:
            return private_data(scenario, client, device=device)

        self.private: Callable[[int], PrivateData] = private
        self.round = 0

    def state(self, client: int) -> ClientState:
        """Return what the client carries, made from its initialization stream at first."""
        if client not in self._live:
            self._live[client] = self._store.get(client, lambda: self._fresh(client))
        return self._live[client]

    def keep(self, client: int) -> None:
        """Store the client's state."""
        self._store.put(client, self.state(client))

    def copies(self, clients: Sequence[int]) -> SerialLearner:
        """Return a learner over copies of these clients' models, to be thrown away."""
        twin = SerialLearner(self._scenario, MemoryStore(), device=self._device)
        twin.private, twin.round = self.private, self.round
        for client in clients:
            original = self.state(client)
            twin._live[client] = ClientState(
                student=self._copied(original.student), proxy=original.proxy
            )
        return twin

    def fit(
        self, clients: Sequence[int], teacher: Consensus | None, distiller: Distiller | None
    ) -> None:
        """Train each client for one round; through DP-SGD where the scenario says so."""
        train = self._train_privately if self._scenario.privacy.dp_sgd else self._train
        for client in clients:
            with borrowed(self._stream("module", client)):
                train(client, self._lesson(client, teacher, distiller))

    def distill(self, clients: Sequence[int], teacher: Consensus, distiller: Distiller) -> None:
        """Take one pass over the teacher."""
        for client in clients:
            lesson = self._lesson(client, teacher, distiller)
            if lesson is None or len(lesson) == 0:
                continue
            rng = self._stream("distillation", client)
            with borrowed(self._stream("module", client)):
                student = self.state(client).student
                distil_pass(student, lesson, recipe=self._scenario.training, rng=rng)

    def weigh(self, clients: Sequence[int], filter: Filter) -> list[Tensor]:
        """Fit the filter once for each proxy version and return its weights."""
        return [self._weights(client, filter) for client in clients]

    def predict(self, clients: Sequence[int], rows: Sequence[Tensor]) -> list[Tensor]:
        """Predict the given proxy rows only."""
        return [
            predict_rows(
                self.state(client).student.module,
                self._proxy(client).inputs,
                some,
                rows_per_input=self.task.rows_per_input,
            )
            for client, some in zip(clients, rows, strict=True)
        ]

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
                arrays={
                    name: value.detach().clone()
                    for name, value in self.state(client).student.module.state_dict().items()
                },
                weight=1.0 if private else float(len(self.private(client).train)),
            )
            for client in clients
        ]

    def load_parameters(self, clients: Sequence[int], update: Update) -> None:
        """Overwrite the parameters; the optimisers keep their state."""
        for client in clients:
            self.state(client).student.module.load_state_dict(update.arrays)

    def closeness(self, client: int) -> Tensor:
        """Return how close each proxy row lies to the client's examples, float32 ``[proxy]``.

        Between 0 and 1, by distances after PCA. Privacy: reads private examples directly.
        """
        transform, shared = self._features(PCA(), self._proxy(client))
        return closeness(transform(self.private(client).train.inputs), shared)

    def figures(self, client: int, examples: Examples) -> dict[str, float]:
        """Return the metrics of the client's model on ``examples``; empty for none."""
        return figures(self.state(client).student.module, examples, task=self.task)

    def _train(self, client: int, lesson: Lesson | None) -> None:
        train_round(
            self.state(client).student,
            self.private(client).train,
            lesson,
            recipe=self._scenario.training,
            task=self.task,
            rng=self._stream("training", client),
        )

    def _train_privately(self, client: int, lesson: Lesson | None) -> None:
        from fedkd_clients.dp_training import Streams, dp_train_round  # seconds to import

        streams = Streams(
            sampling=self._secret("dp-sampling", client),
            noise=self._secret("dp-noise", client),
            module=self._secret("dp-module", client),
            order=self._stream("training", client),
        )
        event = dp_train_round(
            self.state(client).student,
            self.private(client).train,
            lesson,
            scenario=self._scenario,
            task=self.task,
            streams=streams,
        )
        self._spent.setdefault(client, []).append(event)

    def _fresh(self, client: int) -> ClientState:
        seed = self._scenario.initialization_seed()
        module = initialized(
            models.get(self._architectures[client])(),
            self._input_shape,
            self.task.n_classes,
            rng=torch_stream(seed, "initialisation", client=client),
        )
        return ClientState(student=self._student(module))

    def _student(self, module: torch.nn.Module) -> Student:
        module = module.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Student(module=module, optimizer=make_optimizer(module, self._scenario.training))

    def _copied(self, original: Student) -> Student:
        student = self._student(copy.deepcopy(original.module))
        student.optimizer.load_state_dict(copy.deepcopy(original.optimizer.state_dict()))
        return student

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
        return lesson_on(
            teacher,
            self._proxy(client).inputs,
            distiller=distiller,
            rows_per_input=self.task.rows_per_input,
        )

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
