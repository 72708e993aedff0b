"""What may be said about a run's privacy; every table and report takes its sentence from here."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.methods.base import MessageKind
from fedkd.scenario import Scenario
from fedkd.types import ProxySource


@dataclass(frozen=True)
class Claim:
    """The permitted sentence.

    Attributes:
        sentence: what the summary prints.
        epsilon: the guarantee's epsilon, None where there is no guarantee.
        warnings: what an officer must know besides, one sentence each.
    """

    sentence: str
    epsilon: float | None
    warnings: list[str]


def claim(scenario: Scenario) -> Claim:
    """Return what may be claimed: no mechanism shipped so far supports a formal guarantee."""
    warnings: list[str] = []
    exchanges_knowledge = scenario.method.message is MessageKind.KNOWLEDGE
    if exchanges_knowledge and scenario.proxy.source is ProxySource.POOLED:
        warnings.append("raw private examples are shared with all clients (proxy=pooled)")
    if scenario.method.oracle:
        warnings.append("the method is an oracle control that no deployment can run")
    return Claim(sentence="no formal guarantee", epsilon=None, warnings=warnings)
