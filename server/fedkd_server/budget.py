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
        admitted: list[int] = []
        charges: list[Charge] = []  # one write for all of them
        known = self._ledger.clients() if informed is None else informed
        for client in members:
            planned = releases(self._scenario, n_rows=self._n_rows, first=client not in known)
            if self._scenario.noise_seed() is not None:  # done again, the round comes out the same
                planned = self._ledger.unpaid(client, planned, round=round)
            if client in self._refused or self._exceeds(client, planned):
                continue
            charges += [Charge(round=round, client=client, release=one) for one in planned]
            admitted.append(client)
        if len(admitted) >= at_least:
            self._ledger.add(charges)
        return admitted

    def _exceeds(self, client: int, planned: Sequence[Release]) -> bool:
        kept, privacy = guard(self._scenario), self._scenario.privacy
        if kept is None or privacy.target_epsilon is None:
            return False
        after = self._ledger.epsilon(client, *kept, delta=privacy.delta, planned=planned)
        return after > privacy.target_epsilon
