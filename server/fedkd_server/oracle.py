"""What only a simulation can know: true labels of proxy rows and the clients' own accuracies.

Nothing here feeds back into a run; it is measurement, outside bytes, ledger and transcript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.federation import arrays_of, client_rows, load, true_labels
from fedkd.results import Measurement
from fedkd.scenario import Scenario
from fedkd.tasks import Task
from fedkd.training.steps import Examples, figures
from fedkd.transport.messages import Action, Request
from fedkd.types import Broadcast, Consensus, Knowledge, ProxySet
from fedkd_server.exchange import Exchange


class Oracle:
    """Measures a simulated run from the outside."""

    def __init__(self, scenario: Scenario, task: Task, proxy: ProxySet | None) -> None:
        self._scenario, self._task = scenario, task
        layout = scenario.layout()
        labels = arrays_of(layout).train_labels
        self._labels = torch.empty(0, dtype=torch.int64)
        if proxy is not None:
            self._labels = torch.from_numpy(true_labels(layout, proxy.ids.numpy())).flatten()
        self._holds = torch.zeros(scenario.clients, task.n_classes, dtype=torch.bool)
        for client in range(scenario.clients):
            held = np.unique(labels[client_rows(layout, client).train])
            self._holds[client, torch.from_numpy(held)] = True

    def consensus(self, consensus: Consensus, uploads: Mapping[int, Knowledge]) -> dict[str, float]:
        """Return how right the teacher is, and how well the filters chose.

        ``keep_precision`` is the share of weight that comes from clients who hold the row's
        class; ``keep_recall`` how much of the weight such clients could give they gave.
        """
        right = self._task.correct(consensus.scores, self._labels[consensus.rows])
        good = kept = possible = 0.0
        for client, upload in uploads.items():
            knows = self._holds[client][self._labels]
            good += float(upload.weights[knows[upload.rows]].double().sum())
            kept += float(upload.weights.double().sum())
            possible += float(knows.sum())
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
            ]
        )
        return [
            Measurement(round, client, name, value)
            for client, reply in answers.replies.items()
            for name, value in sorted(reply.metrics.items())
        ]

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
