"""From a target epsilon to noise, before anything is trained; refuses what cannot be worth it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fedkd.aggregators.base import Aggregator
from fedkd.data.federation import layout_rows, load
from fedkd.errors import ConfigError
from fedkd.methods.base import CoDistillation
from fedkd.models.base import initialized, models
from fedkd.privacy.accounting import calibrate
from fedkd.privacy.events import Event, Gaussian
from fedkd.privacy.releases import NOISE, filled, guard, lacks_noise, releases
from fedkd.privacy.settings import Privacy
from fedkd.privacy.votes import noise_per_sum, unanimous_error
from fedkd.protectors.none import NoProtection
from fedkd.registry import describe
from fedkd.scenario import Scenario
from fedkd.types import ProxySource

WORTHLESS = 0.1
"""A vote of all clients for one class must not come out wrong more often than this."""
SILENT = 1e-9
"""A noise multiplier that changes no vote."""
BATCH_NORMS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)
RECURRENT: tuple[type[nn.Module], ...] = (nn.RNN, nn.LSTM, nn.GRU)


def planned(scenario: Scenario) -> Scenario:
    """Return the scenario with every noise multiplier known, worked out for the whole run.

    What is known already stays. The noise is the same in every round and for every client; it
    depends on public settings alone.

    Raises:
        ConfigError: no noise keeps the target, or what would come out is noise; nothing was
            trained.
    """
    _refuse_layers(scenario)
    settled = _calibrated(scenario) if _unknown(scenario) else scenario
    _refuse_worthless_votes(settled)
    return settled


def noiseless(scenario: Scenario) -> Scenario:
    """Return the scenario without DP-SGD, protector or a target: what privacy is compared with."""
    open_ = replace(scenario, privacy=Privacy(), protector=NoProtection())
    method = scenario.method
    if isinstance(method, CoDistillation) and NOISE in describe(method.aggregator):
        aggregator = _changed(method.aggregator, NOISE, SILENT)
        open_ = replace(open_, method=_changed(method, "aggregator", aggregator))
    return open_


def proxy_rows(scenario: Scenario) -> int:
    """Return how many rows the proxy set will have when every client gives its share."""
    external, clients = layout_rows(scenario.layout())
    inputs = sum(len(client.contributed) for client in clients)
    if scenario.proxy.source is ProxySource.EXTERNAL:
        inputs = len(external)
    return inputs * load(scenario.data).task.rows_per_input


def run_events(scenario: Scenario, *, rounds: int | None = None) -> Iterator[Event]:
    """Yield the guarded events of a client that takes part in ``rounds`` rounds (None: all)."""
    kept, n_rows = guard(scenario), proxy_rows(scenario)
    for n in range(scenario.rounds if rounds is None else rounds):
        for release in releases(scenario, n_rows=n_rows, first=n == 0):
            if (release.unit, release.channel) == kept:
                yield release.event


def _unknown(scenario: Scenario) -> bool:
    if scenario.privacy.dp_sgd and scenario.privacy.noise_multiplier is None:
        return True
    return any(lacks_noise(part) for part in _parts(scenario))


def _calibrated(scenario: Scenario) -> Scenario:
    target = scenario.privacy.target_epsilon
    if target is None:
        raise ConfigError(
            "privacy.target_epsilon: null, and no noise_multiplier is given either; give one of "
            "them (privacy.target_epsilon=8 works the noise out)"
        )
    multiplier = calibrate(
        lambda noise: run_events(_with_noise(scenario, noise)),
        target_epsilon=target,
        delta=scenario.privacy.delta,
    )
    return _with_noise(scenario, multiplier)


def _with_noise(scenario: Scenario, multiplier: float) -> Scenario:
    """Fill in the noise multipliers that are None."""
    changed: dict[str, Any] = {}
    if scenario.privacy.dp_sgd and scenario.privacy.noise_multiplier is None:
        changed["privacy"] = replace(scenario.privacy, noise_multiplier=multiplier)
    changed["protector"] = filled(scenario.protector, multiplier)
    method = scenario.method
    if isinstance(method, CoDistillation):
        aggregator = filled(method.aggregator, multiplier)
        changed["method"] = _changed(method, "aggregator", aggregator)
    return replace(scenario, **changed)


def _changed(component: Any, field: str, value: object) -> Any:
    return replace(component, **{field: value})


def _parts(scenario: Scenario) -> list[object]:
    method = scenario.method
    aggregator: list[Aggregator] = []
    if isinstance(method, CoDistillation):
        aggregator = [method.aggregator]
    return [scenario.protector, *aggregator]


def _refuse_worthless_votes(scenario: Scenario) -> None:
    method = scenario.method
    if not isinstance(method, CoDistillation) or not method.aggregator.event(n_rows=1).counted:
        return
    n_rows, n_classes = proxy_rows(scenario), load(scenario.data).n_classes
    event = method.aggregator.event(n_rows=n_rows)
    if not isinstance(event, Gaussian):
        return
    voters = scenario.cohort or scenario.clients
    noise = noise_per_sum(event.noise_multiplier, n_rows=n_rows)
    wrong = unanimous_error(voters, noise_std=noise, n_classes=n_classes)
    if wrong > WORTHLESS:
        raise ConfigError(
            f"method.aggregator: with K = {voters} clients and {n_rows:,} rows in each of "
            f"{scenario.rounds} rounds, a unanimous vote would come out wrong {100 * wrong:.0f} % "
            "of the time, so no useful client-level guarantee is to be had; use more clients, "
            "fewer proxy rows or rounds, a larger privacy.target_epsilon, or privacy.dp_sgd=true"
        )


def _refuse_layers(scenario: Scenario) -> None:
    if not scenario.privacy.dp_sgd:
        return
    arrays = load(scenario.data)
    for name in sorted(set(scenario.client_models())):
        rng = torch.Generator()
        module = initialized(models.get(name)(), arrays.input_shape, arrays.n_classes, rng=rng)
        for where, layer in module.named_modules():
            if isinstance(layer, BATCH_NORMS):
                raise ConfigError(
                    f"models: {name!r} has {type(layer).__name__} at {where!r}, which mixes the "
                    "examples of a batch, so DP-SGD cannot bound one; use torch.nn.GroupNorm"
                )
            if isinstance(layer, RECURRENT):
                raise ConfigError(
                    f"models: {name!r} has {type(layer).__name__} at {where!r}, whose gradient "
                    "DP-SGD cannot take example by example; use models=transformer_char"
                )
