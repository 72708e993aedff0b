"""A client's own privacy ledger: it refuses by itself, whatever the server asks."""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedkd.errors import BudgetSpent
from fedkd.methods.base import MessageKind
from fedkd.privacy.events import Event, Unit
from fedkd.privacy.ledger import Channel, Charge, Ledger, Release
from fedkd.privacy.releases import guard
from fedkd.scenario import Scenario


class Uncharged(RuntimeError):
    """Private data was touched otherwise than the ledger says; nothing may leave."""


class Spending:
    """The ledgers of some clients, one file each where there is a folder.

    Args:
        scenario: with every noise multiplier known.
        folder: where ledgers outlive this process, and the run; None keeps them in memory.
        run: names this run and no other; empty where a round that is done again costs again.
    """

    def __init__(self, scenario: Scenario, folder: Path | None, *, run: str = "") -> None:
        self._scenario, self._folder, self._run = scenario, folder, run
        self._in_memory: dict[int, Ledger] = {}

    def recall(self, told: Ledger) -> None:
        """Take up what ``told``, the server's ledger of this run, says that clients released."""
        for client in told.clients():
            mine = [c for c in told.all_of(client) if c.release.channel is Channel.UPLOAD]
            self._in_memory[client] = Ledger(charges=[replace(c, run=self._run) for c in mine])

    def charge(self, client: int, planned: Sequence[Release], *, round: int) -> list[Release]:
        """Write down what a round will release to the server, and return it.

        Raises:
            BudgetSpent: it would take the client beyond the target; nothing was written.
        """
        mine = [release for release in planned if release.channel is Channel.UPLOAD]
        kept, privacy = guard(self._scenario), self._scenario.privacy
        with self._ledger(client) as ledger:
            due = mine
            if self._repeats:
                due = ledger.unpaid(client, mine, round=round, run=self._run)
            if kept is not None and privacy.target_epsilon is not None:
                after = ledger.epsilon(client, *kept, delta=privacy.delta, planned=due)
                if after > privacy.target_epsilon:
                    raise BudgetSpent(
                        f"round {round} would take client {client} to epsilon {after:.4g}, beyond "
                        f"privacy.target_epsilon={privacy.target_epsilon:g}"
                    )
            ledger.add(Charge(round=round, client=client, release=r, run=self._run) for r in due)
        return mine

    def verify(self, client: int, done: Sequence[Event], charged: Sequence[Release]) -> None:
        """Compare what was done to private examples under DP-SGD with what was charged.

        Raises:
            Uncharged: they differ, so the guarantee would be false.
        """
        sends = self._scenario.method.message is not MessageKind.NOTHING
        if not (self._scenario.privacy.dp_sgd and sends):
            return
        paid = [release.event for release in charged if release.unit is Unit.RECORD]
        if Counter(done) != Counter(paid):
            raise Uncharged(f"client {client} did {list(done)!r}, but was charged {paid!r}")

    @property
    def _repeats(self) -> bool:
        """Whether a round of this run that is done again comes out the same, and is known by it."""
        return bool(self._run) and self._scenario.noise_seed() is not None

    @contextmanager
    def _ledger(self, client: int) -> Generator[Ledger]:
        """Give a client's ledger as it is now; other runs on the same data wait for the end."""
        if self._folder is None:
            yield self._in_memory.setdefault(client, Ledger())
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"client-{client}.jsonl"
        with path.open("a", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield Ledger(path=path)
