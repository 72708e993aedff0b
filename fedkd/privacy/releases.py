"""What a scenario lets out in a round, worked out before the round from public settings alone.

The ledger, the plan and the claims all read this one list, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from fedkd.aggregators.base import Aggregator
from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.privacy.events import Event, Nothing, SampledGaussian, Uncounted, Unit
from fedkd.privacy.ledger import Channel, Release
from fedkd.protectors.base import Protector
from fedkd.types import ProxySource

if TYPE_CHECKING:
    from fedkd.scenario import Scenario

NOISE = "noise_multiplier"
"""The field of a component whose noise can be worked out from a target."""
SCORES = "scores"
"""What the release of an upload's scores is called."""
Guard = tuple[Unit, Channel]


def releases(scenario: Scenario, *, n_rows: int, first: bool) -> list[Release]:
    """Return what one client releases by taking part in one round.

    Args:
        scenario: with every noise multiplier known (see ``plan.planned``).
        n_rows: rows of the proxy set.
        first: whether it is the client's first round, in which its filter is fitted.
    """
    found: list[Release] = []
    if scenario.method.message is MessageKind.NOTHING:
        return found
    record, client = Unit.RECORD, Unit.CLIENT
    upload, consensus = Channel.UPLOAD, Channel.CONSENSUS
    found.append(_release("local training", record, upload, training_event(scenario)))
    if first:
        found += given_in_clear(scenario)
    method = scenario.method
    if not isinstance(method, CoDistillation):
        sent = Uncounted("parameters leave as they are")
        found += [_release("parameters", client, channel, sent) for channel in Channel]
        return found
    fitted = method.filter.event()
    if first:
        found.append(_release("choice of rows", record, upload, fitted))
    if not isinstance(fitted, Nothing):
        chosen = Uncounted("the choice of proxy rows is computed from private examples")
        found.append(_release("choice of rows", client, upload, chosen))
    scores = scenario.protector.event(n_rows=n_rows)
    found.append(_release(SCORES, client, upload, scores))
    answer = method.aggregator.event(n_rows=n_rows)
    found.append(_release("consensus", client, consensus, answer))
    return [release for release in found if not isinstance(release.event, Nothing)]


def given_in_clear(scenario: Scenario) -> list[Release]:
    """Return what contributing to a pooled proxy set releases; none where nobody contributes."""
    speaks = scenario.method.message is MessageKind.KNOWLEDGE
    if not speaks or scenario.proxy.source is not ProxySource.POOLED:
        return []
    raw = Uncounted("raw private examples are in the proxy set")
    uploads = [_release("proxy set", unit, Channel.UPLOAD, raw) for unit in Unit]
    return [*uploads, _release("proxy set", Unit.CLIENT, Channel.CONSENSUS, raw)]


def training_event(scenario: Scenario) -> Event:
    """Return what one round of local training costs a record."""
    privacy = scenario.privacy
    if not privacy.dp_sgd:
        return Uncounted("the model is trained without DP-SGD")
    if not privacy.noise_multiplier:
        return Uncounted("DP-SGD without noise")
    return SampledGaussian(
        sampling_probability=privacy.sampling_probability,
        noise_multiplier=privacy.noise_multiplier,
        count=scenario.training.local_epochs * privacy.steps_per_epoch(),
    )


def guard(scenario: Scenario) -> Guard | None:
    """Return the unit and channel that the scenario's formal mechanism protects, if it has one."""
    if scenario.privacy.dp_sgd:
        return Unit.RECORD, Channel.UPLOAD
    method = scenario.method
    if not isinstance(method, CoDistillation):
        return None
    if _bounded(method.aggregator):
        return Unit.CLIENT, Channel.CONSENSUS
    return (Unit.CLIENT, Channel.UPLOAD) if _bounded(scenario.protector) else None


def lacks_noise(part: object) -> bool:
    """Return whether a noise multiplier in a component is still to be worked out from a target.

    The component's own, or that of one it holds, as a chain holds protectors.
    """
    return filled(part, 1.0) != part


def filled(part: Any, noise_multiplier: float) -> Any:
    """Return a component with every noise multiplier that is not known yet set to this one."""
    if isinstance(part, tuple):
        return tuple(filled(one, noise_multiplier) for one in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    now = {field.name: getattr(part, field.name) for field in fields(part)}
    then = {name: filled(value, noise_multiplier) for name, value in now.items()}
    if NOISE in now and now[NOISE] is None:
        then[NOISE] = noise_multiplier
    return part if then == now else replace(part, **then)


def _bounded(part: Aggregator | Protector) -> bool:
    return filled(part, 1.0).event(n_rows=1).counted


def _release(what: str, unit: Unit, channel: Channel, event: Event) -> Release:
    return Release(what=what, unit=unit, channel=channel, event=event)
