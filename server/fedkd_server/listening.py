"""Asking a round's clients, and what their answers come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedkd.errors import BudgetSpent
from fedkd.results import Failure
from fedkd.runtime import Kept
from fedkd.scenario import Scenario
from fedkd.transport.batch import Harvest
from fedkd.transport.messages import Request
from fedkd_server.exchange import Exchange
from fedkd_server.intake import UploadIntake, merged
from fedkd_server.masked import Gathered, MaskedSums
from fedkd_server.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a round's uploads came to, or only their masked sums, and who failed.

    ``state`` is what the method made of all uploads; None without any, and for masked sums.
    """

    harvest: Harvest
    failures: list[Failure]
    bytes_down: Counter[str]
    state: Any = None
    gathered: Gathered | None = None


class Ears:
    """Hears a round's clients out over an exchange."""

    def __init__(self, scenario: Scenario, exchange: Exchange, intake: UploadIntake) -> None:
        self._scenario, self._exchange, self._intake = scenario, exchange, intake

    def listen(self, requests: Sequence[Request], now: Memory, *, round: int) -> Heard:
        """Ask and take in; uploads that came late are remembered in ``now``."""
        if now.masked is not None:
            return self._sums(requests, now.masked, round=round)
        keep = self._scenario.transcript is not Kept.NONE or not self._scenario.method.folds
        harvests, bytes_down = self._exchange.fold(requests, self._intake, keep=keep)
        harvest, state = merged(harvests, self._scenario, n_rows=now.n_rows, late=now.late)
        now.late = harvest.late
        failures = [Failure(round, client, reason) for client, reason in harvest.failures]
        return Heard(harvest=harvest, state=state, failures=failures, bytes_down=bytes_down)

    def _sums(self, requests: Sequence[Request], masked: MaskedSums, *, round: int) -> Heard:
        answers = self._exchange.ask(requests)
        refused = [f for f in answers.failures if f.reason == BudgetSpent.__name__]
        answers.failures = [f for f in answers.failures if f not in refused]
        gathered = None
        if len(requests) - len(refused) >= self._scenario.n_min:
            gathered = masked.gathered(answers, round=round)
        return Heard(
            harvest=Harvest(answered=list(answers.replies), bytes_up=answers.bytes_up),
            failures=sorted([*answers.failures, *refused], key=lambda f: f.client),
            bytes_down=answers.bytes_down,
            gathered=gathered,
        )


def byte_figures(*, down: Counter[str], up: Counter[str]) -> dict[str, float]:
    """Return serialised bytes as measurements, by direction and kind."""
    figures: Counter[str] = Counter()
    for direction, sizes in (("down", down), ("up", up)):
        for kind, size in sorted(sizes.items()):
            figures[f"bytes_{direction}.{kind}"] += size
    return {name: float(size) for name, size in figures.items()}
