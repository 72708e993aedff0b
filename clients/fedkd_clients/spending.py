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
        self._in_memory = Ledger()
        sends = scenario.method.message is not MessageKind.NOTHING
        self._compares = scenario.privacy.dp_sgd and sends

    def recall(self, told: Ledger) -> None:
        """Take up what ``told``, the server's ledger of this run, says that clients released.

        It takes the place of what is in memory: it is for clients that were not asked yet.
        """
        mine = [c for c in told.charges if c.release.channel is Channel.UPLOAD]
        self._in_memory = Ledger(charges=[replace(c, run=self._run) for c in mine])

    def charge(
        self, clients: Sequence[int], planned: Sequence[Release], *, round: int
    ) -> dict[int, Exception]:
        """Write down what a round makes each of some clients release to the server.

        Returns:
            For each client that may not release it, why: ``BudgetSpent`` where it would take the
            client beyond the target. Nothing was written for them; all is for the others.
        """
        mine = [release for release in planned if release.channel is Channel.UPLOAD]
        if self._folder is None:
            return self._charge_together(clients, mine, round=round)
        failed: dict[int, Exception] = {}
        for client in clients:
            failed |= self._charge_together([client], mine, round=round)
        return failed

    def verify(self, client: int, done: Sequence[Event], planned: Sequence[Release]) -> None:
        """Compare what was done to private examples under DP-SGD with what was charged.

        Raises:
            Uncharged: they differ, so the guarantee would be false.
        """
        if not self._compares:
            return
        kept = (Unit.RECORD, Channel.UPLOAD)
        paid = [one.event for one in planned if (one.unit, one.channel) == kept]
        if Counter(done) != Counter(paid):
            raise Uncharged(f"client {client} did {list(done)!r}, but was charged {paid!r}")

    def _charge_together(
        self, clients: Sequence[int], mine: Sequence[Release], *, round: int
    ) -> dict[int, Exception]:
        """Charge clients that share a ledger; what stops the ledger stops all of them."""
        try:
            with self._ledger(clients) as ledger:
                return self._pay(ledger, clients, mine, round=round)
        except Exception as error:
            return dict.fromkeys(clients, error)

    def _pay(
        self, ledger: Ledger, clients: Sequence[int], mine: Sequence[Release], *, round: int
    ) -> dict[int, Exception]:
        unpaid = {tuple(mine): list(clients)}
        if self._repeats:
            unpaid = ledger.unpaid(clients, mine, round=round, run=self._run)
        failed: dict[int, Exception] = {}
        charges: list[Charge] = []
        for due, alike in unpaid.items():
            failed |= self._beyond(ledger, alike, due, round=round)
            within = tuple(sorted(client for client in alike if client not in failed))
            if within:
                charges += [
                    Charge(round=round, clients=within, release=one, run=self._run) for one in due
                ]
        ledger.add(charges)
        return failed

    def _beyond(
        self, ledger: Ledger, clients: Sequence[int], due: Sequence[Release], *, round: int
    ) -> dict[int, Exception]:
        """Return the refusals of clients that paying would take beyond the target."""
        kept, privacy = guard(self._scenario), self._scenario.privacy
        limit = privacy.target_epsilon
        if kept is None or limit is None:
            return {}
        after = ledger.epsilons(clients, *kept, delta=privacy.delta, planned=due)
        return {
            client: BudgetSpent(
                f"round {round} would take client {client} to epsilon {spent:.4g}, beyond "
                f"privacy.target_epsilon={limit:g}"
            )
            for client, spent in zip(clients, after, strict=True)
            if not spent <= limit
        }

    @property
    def _repeats(self) -> bool:
        """Whether a round of this run that is done again comes out the same, and is known by it."""
        return bool(self._run) and self._scenario.noise_seed() is not None

    @contextmanager
    def _ledger(self, clients: Sequence[int]) -> Generator[Ledger]:
        """Give clients' ledger as it is now; other runs on the same data wait for the end.

        In a folder each has its own file, to be asked for alone.
        """
        if self._folder is None:
            yield self._in_memory
            return
        (client,) = clients
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"client-{client}.jsonl"
        with path.open("a", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield Ledger(path=path)
