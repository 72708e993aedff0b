"""What only a simulation can know: true labels of proxy rows and the clients' own accuracies.

Nothing here feeds back into a run; it is measurement, outside bytes, ledger and transcript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.federation import Layout, arrays_of, client_rows, load, true_labels
from fedkd.models.base import initialized, models
from fedkd.results import Measurement
from fedkd.rng import torch_stream
from fedkd.scenario import Scenario
from fedkd.tasks import Task
from fedkd.training.steps import Examples, figures
from fedkd.transport.messages import Action, Request
from fedkd.types import Broadcast, Consensus, Knowledge, ProxySet, Update
from fedkd_server.exchange import Exchange


class Holdings:
    """Which classes each client holds, against which its choice of proxy rows is measured."""

    def __init__(self, scenario: Scenario, proxy: ProxySet) -> None:
        layout = scenario.layout()
        self._layout, self._train_labels = layout, arrays_of(layout).train_labels
        self._n_classes = load(scenario.data).n_classes
        self._labels = _labels_of(layout, proxy)
        self._counts = torch.bincount(self._labels, minlength=self._n_classes)

    def tally(self, client: int, upload: Knowledge) -> dict[str, float]:
        """Return the weight an upload gave to rows of classes held, to all rows, and could give."""
        if not len(self._labels):
            return {}
        held = self._held(client)
        weights = upload.weights.double()
        right = held[self._labels[upload.rows]]
        return {
            "good": float((weights * right).sum()),
            "kept": float(weights.sum()),
            "possible": float(self._counts[held].sum()),
        }

    @lru_cache(maxsize=4096)  # noqa: B019  one for each process, as long as the run
    def _held(self, client: int) -> Tensor:
        held = torch.zeros(self._n_classes, dtype=torch.bool)
        mine = np.unique(self._train_labels[client_rows(self._layout, client).train])
        held[torch.from_numpy(mine)] = True
        return held


def _labels_of(layout: Layout, proxy: ProxySet) -> Tensor:
    """Return the true label of every proxy row; none at all where clients gave own examples."""
    ids = proxy.ids.numpy()
    if len(ids) and ids.max() >= len(arrays_of(layout).train_labels):
        return torch.empty(0, dtype=torch.int64)
    return torch.from_numpy(true_labels(layout, ids)).flatten()


def first_model(scenario: Scenario) -> nn.Module:
    """Return a fresh module of the first client's architecture, from the server's own stream."""
    arrays, model = load(scenario.data), models.get(scenario.client_models()[0])()
    rng = torch_stream(scenario.initialization_seed(), "initialisation")
    return initialized(model, arrays.input_shape, arrays.n_classes, rng=rng)


class Oracle:
    """Measures a simulated run from the outside."""

    def __init__(self, scenario: Scenario, task: Task, proxy: ProxySet | None) -> None:
        self._scenario, self._task = scenario, task
        layout = scenario.layout()
        self._labels = torch.empty(0, dtype=torch.int64)
        if proxy is not None:
            self._labels = _labels_of(layout, proxy)

    def consensus(self, consensus: Consensus, tallies: Mapping[str, float]) -> dict[str, float]:
        """Return how right the teacher is, and how well the filters chose.

        ``keep_precision`` is the share of weight that comes from clients who hold the row's
        class; ``keep_recall`` how much of the weight such clients could give they gave. Both are
        made of the ``tallies`` of :class:`Holdings`.
        """
        if not len(self._labels):
            return {}
        right = self._task.correct(consensus.scores, self._labels[consensus.rows])
        good, kept, possible = (tallies.get(name, 0.0) for name in ("good", "kept", "possible"))
        measured = {"keep_precision": (good, kept), "keep_recall": (good, possible)}
        found = {name: a / b for name, (a, b) in measured.items() if b}
        if self._task.rows_per_input > 1:  # everybody holds every token
            found = {}
        if len(consensus):
            found["teacher_accuracy"] = float(right.double().mean())
        return found

    def clients(
        self,
        exchange: Exchange,
        clients: Sequence[int],
        broadcast: Broadcast | None,
        *,
        round: int,
        closing: bool,
    ) -> list[Measurement]:
        """Ask clients for their accuracies, on the test set and on their own held-out examples."""
        answers = exchange.ask(
            [
                Request(
                    action=Action.MEASURE,
                    client=client,
                    round=round,
                    incoming=broadcast if closing else None,
                    closing=closing,
                )
                for client in clients
                if client in exchange.simulated
            ]
        )
        return [
            Measurement(round, client, name, value)
            for client, reply in answers.replies.items()
            for name, value in sorted(reply.metrics.items())
        ]

    def update(self, update: Update) -> dict[str, float]:
        """Return the metrics of a model with these parameters, on the test set."""
        self._desk.load_state_dict(update.arrays)
        return self.model(self._desk, device=torch.device("cpu"))

    @cached_property
    def _desk(self) -> nn.Module:
        return first_model(self._scenario).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def model(self, module: nn.Module, *, device: torch.device) -> dict[str, float]:
        """Return a server-side model's metrics on the test set, as ``server_accuracy`` etc."""
        arrays = load(self._scenario.data)
        examples = Examples(
            inputs=_on(arrays.test_inputs, device), labels=_on(arrays.test_labels, device)
        )
        found = figures(module, examples, task=self._task)
        return {f"server_{name}": value for name, value in found.items()}


def _on(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
