"""The private examples of one client; nothing outside this folder ever holds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedkd.adversaries.base import poisoned_labels, stream
from fedkd.data.federation import Layout, Rows, arrays_of, client_rows, external_rows
from fedkd.methods.base import Holding
from fedkd.scenario import Scenario
from fedkd.training.steps import Examples
from fedkd.types import ProxySet, ProxySource


@dataclass(frozen=True, eq=False, kw_only=True)
class PrivateData:
    """What one client holds.

    Attributes:
        train: the examples it trains on.
        contributed: bool ``[n_train]``, which of them it gives to a pooled proxy set, in clear.
        ids: int64 ``[n_train]``, the examples' index in the data set (simulation only).
        local_test: its own held-out examples; may be empty.
    """

    train: Examples
    contributed: Tensor
    ids: Tensor
    local_test: Examples


def private_data(scenario: Scenario, client: int, *, device: torch.device) -> PrivateData:
    """Return what ``client`` holds, or what a control that pools data gives its one client."""
    layout = scenario.layout()
    held = [client] if scenario.method.holding is Holding.OWN else range(scenario.clients)
    parts = [client_rows(layout, one) for one in held]
    train = np.concatenate([part.train for part in parts])
    gave = np.concatenate([np.isin(np.arange(len(p.train)), p.contributed) for p in parts])
    if scenario.method.holding is Holding.LABELLED_PROXY:
        train = np.concatenate([train[gave], external_rows(layout)])
        gave = np.ones(len(train), dtype=bool)
    local_test = np.concatenate([part.local_test for part in parts])
    examples = _examples(scenario, train, device=device)
    attack = scenario.attack
    if attack is not None and client in scenario.attackers():
        rng = stream(attack, scenario.training_seed(), "labels", round=0, client=client)
        n_classes = arrays_of(layout).n_classes
        labels = poisoned_labels(attack, examples.labels, n_classes=n_classes, rng=rng)
        examples = Examples(inputs=examples.pool, rows=examples.rows, labels=labels)
    return PrivateData(
        train=examples,
        contributed=torch.from_numpy(gave),
        ids=torch.from_numpy(train),
        local_test=_examples(scenario, local_test, device=device),
    )


def contribution(data: PrivateData) -> ProxySet:
    """Return the examples a client shares in clear: raw private inputs, without labels."""
    gave = torch.nonzero(data.contributed).flatten()
    return ProxySet(
        inputs=data.train.inputs[gave.to(data.train.inputs.device)],
        ids=data.ids[gave],
        owner=None,
        source=ProxySource.POOLED,
    )


def _examples(scenario: Scenario, rows: Rows, *, device: torch.device) -> Examples:
    arrays, pool = arrays_of(scenario.layout()), _pool(scenario.layout(), device)
    at = torch.from_numpy(rows).to(device)
    labels = torch.from_numpy(arrays.train_labels[rows]).to(device)
    return Examples(inputs=pool, rows=at, labels=labels)


@lru_cache(maxsize=2)
def _pool(layout: Layout, device: torch.device) -> Tensor:
    """Return the inputs that all clients' examples are rows of."""
    return torch.from_numpy(arrays_of(layout).train_inputs).to(device)
