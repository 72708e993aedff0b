"""Finds what a client was charged, in all or in one round, without a look at the whole ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedkd.privacy.events import Event

if TYPE_CHECKING:
    from fedkd.privacy.ledger import Charge, Release
    from fedkd.privacy.releases import Guard


class Spent:
    """What a client released of one unit and channel, by event.

    Clients with the same past hold the same object, so that its epsilon is worked out once.

    Attributes:
        events: how often each event took place.
    """

    def __init__(self, events: Counter[Event]) -> None:
        self.events = events
        self._with: dict[Event, Spent] = {}

    def and_then(self, event: Event) -> Spent:
        """Return what it is after one more event."""
        if event not in self._with:
            self._with[event] = Spent(self.events + Counter([event]))
        return self._with[event]


class ByClient:
    """All charges, by client."""

    def __init__(self) -> None:
        self._charges: defaultdict[int, list[Charge]] = defaultdict(list)
        self._nothing = Spent(Counter())
        self._spent: defaultdict[Guard, dict[int, Spent]] = defaultdict(dict)
        self._n_known = 0

    def catch_up(self, charges: Sequence[Charge]) -> None:
        """Take in what was added to ``charges`` since it was last given."""
        for charge in charges[self._n_known :]:
            self._take(charge)
        self._n_known = len(charges)

    def clients(self) -> list[int]:
        """Return the clients that were charged, ascending."""
        return sorted(self._charges)

    def charges(self, client: int) -> list[Charge]:
        """Return a client's charges, in order."""
        return list(self._charges.get(client, ()))

    def spent(self, client: int, kept: Guard) -> Spent:
        """Return what a client released of one unit and channel."""
        return self._spent[kept].get(client, self._nothing)

    def _take(self, charge: Charge) -> None:
        release = charge.release
        spent, after = self._spent[release.unit, release.channel], dict[Spent, Spent]()
        for client in charge.clients:
            self._charges[client].append(charge)
            before = spent.get(client, self._nothing)
            if before not in after:
                after[before] = before.and_then(release.event)
            spent[client] = after[before]


class InRound:
    """The charges of one round of one run, by client.

    Attributes:
        charges: all of them; more may be appended.
    """

    def __init__(self, charges: Sequence[Charge]) -> None:
        self.charges = charges
        self._by_client: defaultdict[int, list[Release]] = defaultdict(list)
        self._n_known = 0

    def unpaid(
        self, clients: Sequence[int], planned: Sequence[Release]
    ) -> dict[tuple[Release, ...], list[int]]:
        """Return the clients by what of ``planned`` is not among their charges."""
        for charge in self.charges[self._n_known :]:
            for client in charge.clients:
                self._by_client[client].append(charge.release)
        self._n_known = len(self.charges)
        new = [client for client in clients if client not in self._by_client]
        groups = {tuple(planned): new} if new else {}
        for client in clients:
            if client in self._by_client:
                left = tuple(_without(planned, self._by_client[client]))
                groups.setdefault(left, []).append(client)
        return groups


def _without(planned: Sequence[Release], paid: Sequence[Release]) -> list[Release]:
    """Return what is planned more often than it was paid."""
    before = list(paid)
    left: list[Release] = []
    for release in planned:
        if release in before:
            before.remove(release)
        else:
            left.append(release)
    return left
