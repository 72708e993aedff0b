"""What must hold for a guarantee that a scenario asks for; whatever does not is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.privacy.events import Nothing, Unit
from fedkd.privacy.ledger import Channel
from fedkd.privacy.releases import guard
from fedkd.privacy.settings import ServerView
from fedkd.registry import describe
from fedkd.types import ProxySource, Space

if TYPE_CHECKING:
    from fedkd.scenario import Scenario


def refusals(scenario: Scenario) -> Iterator[str]:
    """Yield why a scenario cannot have the guarantee it asks for, each with its remedy."""
    if scenario.privacy.target_epsilon is not None and guard(scenario) is None:
        yield (
            f"privacy.target_epsilon: {scenario.privacy.target_epsilon:g} is asked for, but "
            "nothing here bounds what leaves a client; use privacy.dp_sgd=true, method=gnmax or "
            "protector=gaussian, or privacy.target_epsilon=null"
        )
    if scenario.privacy.target_epsilon is not None:
        yield from _client_level(scenario)
    if scenario.privacy.dp_sgd:
        yield from _record_level(scenario)
    if scenario.server_view is ServerView.SUMS:
        yield from _masked_sums(scenario)


def _client_level(scenario: Scenario) -> Iterator[str]:
    """Yield what a client-level target cannot cover."""
    kept, method = guard(scenario), scenario.method
    if kept is None or kept[0] is not Unit.CLIENT or not isinstance(method, CoDistillation):
        return
    if scenario.proxy.source is ProxySource.POOLED:
        yield (
            "privacy.target_epsilon: proxy=pooled sends raw private examples in clear, so no "
            "guarantee can hold; use proxy=external"
        )
    if kept[1] is Channel.UPLOAD and not isinstance(method.filter.event(), Nothing):
        yield (
            "privacy.target_epsilon: the method's filter lets every client choose its rows by its "
            "private data, which the protector's noise does not cover; use method.filter=keep_all"
        )


def _record_level(scenario: Scenario) -> Iterator[str]:
    """Yield each way in which private data would get around DP-SGD's accountant."""
    method = scenario.method
    if method.oracle:
        yield (
            "privacy.dp_sgd: the method is an oracle control, whose clients see what no deployment "
            "could; use a method that is none, such as fedmd"
        )
    if method.message is MessageKind.KNOWLEDGE and scenario.proxy.source is ProxySource.POOLED:
        yield (
            "privacy.dp_sgd: proxy=pooled sends raw private examples in clear, so no guarantee can "
            "hold; use proxy=external"
        )
    if isinstance(method, CoDistillation) and not method.filter.event().counted:
        yield (
            "privacy.dp_sgd: the method's filter computes its choice of rows from private "
            "examples, outside the ledger; use method.filter=dp_centroids (a noisy release, "
            "counted) or method.filter=keep_all"
        )
    if scenario.protector.reads_private:
        yield (
            "privacy.dp_sgd: the protector reads private examples, outside the ledger; use a "
            "scorer that reads the model's own scores, such as confidence"
        )
    if scenario.partition.shares_rows:
        yield (
            "privacy.dp_sgd: the partition gives one example to several clients, whose epsilons "
            "would add up; use a partition that shares nothing, such as iid"
        )


def _masked_sums(scenario: Scenario) -> Iterator[str]:
    """Yield why sums alone, of at least ``n_min`` clients, would not do for the scenario."""
    method, n_members = scenario.method, len(scenario.participants())
    if not isinstance(method, CoDistillation):
        yield "server_view: this method sends no knowledge to sum; use uploads"
        return
    if method.distiller.space is not Space.PROBS:
        yield (
            "server_view: the method's distiller reads logits, which have no bound and could wrap "
            "around in a masked sum; use the distiller kl, or server_view=uploads"
        )
    if not method.aggregator.linear:
        yield (
            f"server_view: the aggregator {describe(method.aggregator)['name']!r} needs more than "
            "sums of the uploads; use the aggregator mean, or server_view=uploads"
        )
    if n_members < scenario.n_min:
        yield (
            f"n_min: {scenario.n_min} keepers a row are asked for, but there are {n_members} "
            "clients; lower it, or take more clients"
        )
    if scenario.cohort is not None and scenario.cohort < n_members:
        yield (
            f"cohort: {scenario.cohort} of {n_members} clients would change from round to round, "
            "and counts of changing cohorts can be subtracted to see what one client keeps; use "
            "cohort=null, or server_view=uploads"
        )
