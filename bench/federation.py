"""Writes the clients' rows of a scenario to a file, for sides that know nothing of fedkd."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedkd.data.federation import arrays_of, client_rows
from fedkd.errors import ConfigError
from fedkd.scenario import Scenario
from fedkd.types import ProxySource


def write_federation(scenario: Scenario, path: Path) -> None:
    """Write images, labels and every client's rows; ConfigError unless the proxy set is pooled."""
    if scenario.proxy.source is not ProxySource.POOLED:
        raise ConfigError("proxy: the plain sides know pooled proxy sets only; use proxy=pooled")
    layout = scenario.layout()
    arrays = arrays_of(layout)
    rows: dict[str, np.ndarray] = {}
    for client in range(scenario.clients):
        held = client_rows(layout, client)
        rows[f"train_{client}"] = held.train
        rows[f"local_test_{client}"] = held.local_test
        rows[f"contributed_{client}"] = held.contributed
    np.savez(
        path,
        inputs=arrays.train_inputs,
        labels=arrays.train_labels,
        test_inputs=arrays.test_inputs,
        test_labels=arrays.test_labels,
        clients=np.array(scenario.clients),
        **rows,
    )
