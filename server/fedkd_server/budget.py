"""Who may still take part: the server's privacy ledger, charged before a round starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedkd.privacy.ledger import Charge, Ledger, Release
from fedkd.privacy.releases import guard, releases
from fedkd.scenario import Scenario


class Budget:
    """Leaves clients out of a round that would take them over the target epsilon.

    Args:
        scenario: with every noise multiplier known.
        ledger: what this run has released so far.
        n_rows: rows of the proxy set.
        refused: clients whose own ledger says that its budget is spent; they are left out.
    """

    def __init__(
        self, scenario: Scenario, ledger: Ledger, *, n_rows: int, refused: Collection[int] = ()
    ) -> None:
        self._scenario, self._ledger, self._n_rows = scenario, ledger, n_rows
        self._refused = refused

    def admit(
        self,
        members: Sequence[int],
        *,
        round: int,
        at_least: int = 1,
        informed: Collection[int] | None = None,
    ) -> list[int]:
        """Return the members the round leaves within budget, their releases written down.

        Nothing is written down for fewer than ``at_least``: there is no round with them.

        Args:
            members: who would be asked, by client id.
            round: the current round.
            at_least: how many a round needs.
            informed: clients that have the proxy set. The others are sent it with the round and
                fit their filter, anew where an earlier answer of theirs was lost; None for all
                that were charged before.
        """
        known = set(self._ledger.clients()) if informed is None else informed
        able = [client for client in members if client not in self._refused]
        admitted: set[int] = set()
        charges: list[Charge] = []  # one write for all of them
        for first in (True, False):
            alike = [client for client in able if (client not in known) is first]
            for due, clients in self._due(alike, first=first, round=round).items():
                within = self._within(clients, due)
                admitted.update(within)
                if within:
                    together = tuple(sorted(within))
                    charges += [Charge(round=round, clients=together, release=one) for one in due]
        if len(admitted) >= at_least:
            self._ledger.add(charges)
        return [client for client in able if client in admitted]

    def _due(
        self, clients: Sequence[int], *, first: bool, round: int
    ) -> dict[tuple[Release, ...], list[int]]:
        """Return clients that a round costs the same by what they have to pay of it."""
        if not clients:
            return {}
        planned = releases(self._scenario, n_rows=self._n_rows, first=first)
        if self._scenario.noise_seed() is None:
            return {tuple(planned): list(clients)}
        # done again, the round comes out the same
        return self._ledger.unpaid(clients, planned, round=round)

    def _within(self, clients: Sequence[int], due: Sequence[Release]) -> Sequence[int]:
        """Return the clients that stay within the target when they pay what is due."""
        kept, privacy = guard(self._scenario), self._scenario.privacy
        limit = privacy.target_epsilon
        if kept is None or limit is None:
            return clients
        after = self._ledger.epsilons(clients, *kept, delta=privacy.delta, planned=due)
        return [client for client, spent in zip(clients, after, strict=True) if spent <= limit]
