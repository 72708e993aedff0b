"""What a filter sees of a client: features of its examples and of the proxy set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedkd.data.federation import true_labels
from fedkd.features.base import Features, Transform
from fedkd.filters.base import ClientView, Filter
from fedkd.scenario import Scenario
from fedkd.tasks import Task
from fedkd.training.steps import as_model_input
from fedkd.types import ProxySet
from fedkd_clients.private_data import PrivateData


class Views:
    """Makes views for any client; features of a proxy set are computed once a version."""

    def __init__(self, scenario: Scenario, task: Task, *, device: torch.device) -> None:
        self._scenario, self._task, self._device = scenario, task, device
        self._spaces: dict[tuple[Features, int], tuple[Transform, Tensor]] = {}
        self._inputs: dict[int, Tensor] = {}
        self._read: tuple[Tensor, Tensor] | None = None

    def placed(self, proxy: ProxySet) -> ProxySet:
        """Return a client's copy of the proxy set, whose inputs all clients here share."""
        inputs = self._inputs.setdefault(proxy.version, proxy.inputs.to(self._device))
        return replace(proxy, inputs=inputs, rows_per_input=self._task.rows_per_input)

    def read(self, proxy: ProxySet) -> Tensor:
        """Return a placed proxy set's inputs as models read them, which all clients here share."""
        if self._read is None or self._read[0] is not proxy.inputs:
            self._read = (proxy.inputs, as_model_input(proxy.inputs))
        return self._read[1]

    def view(
        self, client: int, filter: Filter, *, data: PrivateData, proxy: ProxySet
    ) -> ClientView:
        """Return what ``filter`` may see of ``client``: no private example unless it says so."""
        shown = filter.reads_private
        inputs = data.train.inputs if shown else data.train.pool[:0]
        private, shared = inputs.flatten(1), proxy.inputs.flatten(1)
        if filter.space is not None:
            transform, shared = self.features(filter.space, proxy)
            private = transform(inputs)
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
            contributed=(data.contributed if shown else data.contributed[:0]).to(self._device),
            proxy=shared,
            own=own,
            labels=data.train.labels if shown else data.train.labels[:0],
            n_classes=self._task.n_classes,
            proxy_labels=labels,
        )

    def features(self, space: Features, proxy: ProxySet) -> tuple[Transform, Tensor]:
        """Return the transform that was fitted on a proxy set, and the set's own features."""
        key = (space, proxy.version)
        if key not in self._spaces:
            transform = space.fit(proxy.inputs)
            self._spaces[key] = (transform, transform(proxy.inputs))
        return self._spaces[key]

    def asked(self, weights: Tensor, proxy: ProxySet, *, round: int) -> Tensor:
        """Return the weights of the rows that a round asks about; the others are zero."""
        asked = self._scenario.asked(len(proxy), round=round)
        if asked is None:
            return weights
        return weights * asked.to(weights.device).repeat_interleave(proxy.rows_per_input)
