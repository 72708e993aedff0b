"""Which faults, devices, deadlines and quorums a scenario cannot have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedkd.faults.settings import Faults, LatePolicy
from fedkd.methods.base import CoDistillation, Holding
from fedkd.privacy.settings import ServerView
from fedkd.registry import describe

if TYPE_CHECKING:
    from fedkd.scenario import Scenario


def unbearable(scenario: Scenario) -> Iterator[str]:
    """Yield what does not go together, each with its remedy."""
    asked = len(scenario.participants())
    asked = asked if scenario.cohort is None else min(asked, scenario.cohort)
    if scenario.quorum > asked:
        yield f"quorum: {scenario.quorum} uploads of a cohort of {asked}; give {asked} or fewer"
    if scenario.deadline_s is not None and not math.isfinite(scenario.deadline_s):
        yield f"deadline_s: {scenario.deadline_s} is no number of seconds; use null to wait for all"
    if scenario.late_policy is LatePolicy.NEXT_ROUND:
        yield from _late(scenario)
    if scenario.faults is not None:
        yield from _faults(scenario, scenario.faults)
    if scenario.devices:
        yield from _devices(scenario)


def _late(scenario: Scenario) -> Iterator[str]:
    if scenario.deadline_s is None:
        yield "late_policy: next_round, but nothing is late without deadline_s; give one, or drop"
    if scenario.server_view is ServerView.SUMS:
        yield (
            "late_policy: next_round, but a masked upload fits into its own round's sum only; use "
            "late_policy=drop or server_view=uploads"
        )
    method = scenario.method
    if isinstance(method, CoDistillation) and method.aggregator.event(n_rows=1).counted:
        yield (
            f"late_policy: next_round would put an upload into a release of the aggregator "
            f"{describe(method.aggregator)['name']!r} that its client was not charged for; use drop"
        )


def _faults(scenario: Scenario, faults: Faults) -> Iterator[str]:
    crash = faults.crash
    if crash is not None and crash.client >= scenario.clients:
        yield (
            f"faults.crash.client: {crash.client}, but clients={scenario.clients} has ids up to "
            f"{scenario.clients - 1}"
        )
    if crash is not None and crash.round > scenario.rounds:
        yield f"faults.crash.round: {crash.round} is never reached with rounds={scenario.rounds}"
    quiet = Faults(crash=crash)
    if scenario.server_view is ServerView.SUMS and faults != quiet:
        yield (
            "faults: of masked sums only faults.crash is simulated, since damaged words look like "
            "any others; use server_view=uploads, or give no other faults"
        )


def _devices(scenario: Scenario) -> Iterator[str]:
    if scenario.method.holding is not Holding.OWN:
        yield (
            f"devices: {describe(scenario.method)['name']!r} trains in one place, which is no "
            "device; use a method whose clients keep their examples, or devices=[]"
        )
    if scenario.server_view is ServerView.SUMS:
        yield (
            "devices: the two exchanges of masked sums are not timed; use server_view=uploads, or "
            "devices=[]"
        )
