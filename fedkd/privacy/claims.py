"""What may be said about a run's privacy; every table and report takes its sentence from here.

The ladder: 0 nothing; 1 noise without a useful guarantee; 2 a guarantee for every record, by
DP-SGD on the clients; 3 a guarantee for every client, by noise that the trusted server adds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedkd.methods.base import MessageKind
from fedkd.privacy.accounting import epsilon
from fedkd.privacy.events import Uncounted, Unit
from fedkd.privacy.ledger import Channel, Ledger
from fedkd.privacy.preconditions import refusals
from fedkd.privacy.releases import SCORES, Guard, guard
from fedkd.privacy.settings import ServerView
from fedkd.scenario import Scenario
from fedkd.types import ProxySource

NONE = "no formal guarantee"
PROMISING = 20.0
"""The largest epsilon that counts as a guarantee: exp(20) bounds odds by nothing one could use."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The permitted sentence and what it rests on.

    Attributes:
        level: rung of the ladder, 0 to 3.
        sentence: what the summary prints.
        epsilon: the largest of any client, None where there is no guarantee. At level 1 it
            stays None: a noise's formal epsilon is in the sentence, and no guarantee.
        delta: the delta it holds at, None without an epsilon.
        unit: whom it protects, None without an epsilon.
        neighboring: what may differ between two data sets that cannot be told apart.
        trust: who must be trusted.
        warnings: what an officer must know besides, one sentence each.
    """

    level: int = 0
    sentence: str = NONE
    epsilon: float | None = None
    delta: float | None = None
    unit: Unit | None = None
    neighboring: str = ""
    trust: str = ""
    warnings: list[str] = field(default_factory=list[str])


def claim(
    scenario: Scenario, ledger: Ledger, cohorts: Sequence[tuple[int, Sequence[int]]]
) -> Claim:
    """Return what may be claimed of a run as far as it went.

    Args:
        scenario: what was run.
        ledger: what was released.
        cohorts: every round that asked clients for anything, with the clients it asked. A client
            and round that the ledger misses costs the whole claim.
    """
    warnings = list(_warnings(scenario))
    missing = _uncharged(scenario, ledger, cohorts)
    if missing:
        return Claim(warnings=[missing, *warnings])
    kept, delta = guard(scenario), scenario.privacy.delta
    worst = 0.0
    if kept is not None:
        honest = _honest(scenario, ledger)
        worst = max(ledger.epsilons(honest, *kept, delta=delta), default=0.0)
        if not math.isfinite(worst):
            warnings.insert(0, f"no guarantee, because: {_reasons(ledger, kept, of=honest)}")
    if kept is None or list(refusals(scenario)) or not _formal(scenario, worst):
        return _empirical(scenario, ledger, warnings, worst=worst)
    level, unit, neighboring, trust, text = _SENTENCES[kept]
    each = "each honest client" if scenario.attackers() else "each client"
    sentence = text.format(each=each, epsilon=_rounded_up(worst), delta=f"{delta:g}")
    return Claim(
        level=level,
        sentence=sentence,
        epsilon=worst,
        delta=delta,
        unit=unit,
        neighboring=neighboring,
        trust=trust,
        warnings=warnings,
    )


def _formal(scenario: Scenario, worst: float) -> bool:
    """Return whether a bound counts as a guarantee.

    Noise that a protector adds for its own sake has a formal epsilon too, of thousands or
    millions; it is a guarantee only where a target was set and kept. Nor is any larger epsilon
    than ``PROMISING`` one.
    """
    target = scenario.privacy.target_epsilon
    if guard(scenario) == (Unit.CLIENT, Channel.UPLOAD):
        return target is not None and worst <= min(target, PROMISING)
    return worst <= PROMISING


_SENTENCES = {
    (Unit.RECORD, Channel.UPLOAD): (
        2,
        Unit.RECORD,
        "add or remove one private example of one client",
        "nobody but the client itself",
        "{each}'s records have ({epsilon}, {delta})-DP, adding or removing one, against the "
        "server and all other clients, for the whole run",
    ),
    (Unit.CLIENT, Channel.CONSENSUS): (
        3,
        Unit.CLIENT,
        "replace all data of one client by any other",
        "the server, which sees the uploads and adds the noise",
        "{each} has ({epsilon}, {delta})-DP, replacing all its data, against those who see "
        "the consensus, trusting the server, for the whole run",
    ),
    (Unit.CLIENT, Channel.UPLOAD): (
        3,
        Unit.CLIENT,
        "replace all data of one client by any other",
        "nobody but the client itself",
        "{each} has ({epsilon}, {delta})-DP, replacing all its data, against the server and "
        "all other clients, for the whole run",
    ),
}


def _empirical(scenario: Scenario, ledger: Ledger, warnings: list[str], *, worst: float) -> Claim:
    """Return level 1 where a protector's noise acts without a useful guarantee, else level 0."""
    protects = scenario.protector.adds_noise
    if not protects or scenario.method.message is not MessageKind.KNOWLEDGE:
        if PROMISING < worst < math.inf:
            formal = f"the formal epsilon {_rounded_up(worst)} is too large to promise anything"
            return Claim(sentence=f"{NONE}: {formal}", warnings=warnings)
        return Claim(warnings=warnings)
    delta = scenario.privacy.delta
    uploads, honest = (Unit.CLIENT, Channel.UPLOAD), _honest(scenario, ledger)
    events = [
        [c.release.event for c in ledger.of(client, *uploads) if c.release.what == SCORES]
        for client in honest
    ]
    alone = max((epsilon(of_client, delta=delta) for of_client in events), default=0.0)
    noise = f"{_rounded_up(alone)} (delta {delta:g})"
    if not math.isfinite(alone):
        noise = f"unbounded ({_reasons(ledger, uploads, of=honest, what=SCORES)})"
    return Claim(
        level=1,
        sentence=f"empirical protection, {NONE}; client-level epsilon of the noise alone: {noise}",
        warnings=warnings,
    )


def _honest(scenario: Scenario, ledger: Ledger) -> list[int]:
    """Return the clients that something can be claimed for: an adversary protects nothing."""
    return [client for client in ledger.clients() if client not in scenario.attackers()]


def _reasons(ledger: Ledger, kept: Guard, *, of: Sequence[int], what: str | None = None) -> str:
    """Return why releases of some clients have no bound, each reason once."""
    found: dict[str, None] = {}
    for client in of:
        for charge in ledger.of(client, *kept):
            event = charge.release.event
            if isinstance(event, Uncounted) and what in (None, charge.release.what):
                found[event.reason] = None
    return "; ".join(found)


def _uncharged(
    scenario: Scenario, ledger: Ledger, cohorts: Sequence[tuple[int, Sequence[int]]]
) -> str | None:
    if scenario.method.message is MessageKind.NOTHING:
        return None
    charged: defaultdict[int, set[int]] = defaultdict(set)
    for charge in ledger.charges:
        charged[charge.round].update(charge.clients)
    for n, clients in cohorts:
        for client in clients:
            if client not in charged[n]:
                return f"the ledger misses client {client} in round {n}, so nothing can be claimed"
    return None


def _warnings(scenario: Scenario) -> Iterator[str]:
    liars = sorted(scenario.attackers())
    if liars:
        yield (
            f"clients {liars} are adversaries: what they send passes no protector, and nothing is "
            "claimed for them"
        )
    speaks = scenario.method.message is MessageKind.KNOWLEDGE
    if speaks and scenario.proxy.source is ProxySource.POOLED:
        yield "raw private examples are shared with all clients (proxy=pooled)"
    if scenario.method.oracle:
        yield "the method is an oracle control that no deployment can run"
    planted, kept = scenario.canaries, guard(scenario)
    if planted is not None and kept is not None and kept[0] is Unit.RECORD:
        yield (
            f"canaries: one secret is in up to {max(planted.insertions) * planted.holders} "
            "examples; the sentence is about each example, not about the secret"
        )
    if kept is not None and scenario.noise_seed() is not None:
        yield (
            "the noise comes from the scenario's seed, so that the run can be repeated; whoever "
            "knows the seed can remove it (seeds.noise=secret draws it from the operating system)"
        )
    if kept is not None:
        yield "not secure against attacks on the random generator or on floating-point noise"
    if scenario.server_view is ServerView.SUMS:
        yield (
            "masked sums: the server, if it follows the protocol, sees no single upload; the sums "
            f"themselves (at least {scenario.n_min} clients a row) are not noised by them"
        )
        yield (
            "masked sums hide nobody who stops: when a client is left out because its budget is "
            "spent, or falls silent, the sums before and after can be subtracted, which shows the "
            "rows it keeps and roughly its scores"
        )


def _rounded_up(epsilon: float) -> str:
    """Return an epsilon with three digits, never printed smaller than it is."""
    if epsilon == 0 or not math.isfinite(epsilon):
        return f"{epsilon:g}"
    step = 10.0 ** (math.floor(math.log10(epsilon)) - 2)
    return f"{math.ceil(round(epsilon / step, 6)) * step:.3g}"
