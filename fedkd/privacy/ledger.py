"""The privacy ledger: every release of every client, written down before it happens."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import lt
from pathlib import Path
from typing import Any, BinaryIO

from fedkd.errors import ConfigError
from fedkd.privacy.accounting import epsilon_of_counts
from fedkd.privacy.events import Event, Unit, from_plain, to_plain
from fedkd.privacy.ledger_index import ByClient, InRound, Spent
from fedkd.privacy.spans import from_spans, to_spans
from fedkd.types import SCHEMA


class Channel(StrEnum):
    """Who learns a release."""

    UPLOAD = "upload"
    """The server, and whoever it tells."""
    CONSENSUS = "consensus"
    """Everybody who sees the consensus; the server, which adds the noise, is trusted."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One thing a client lets out in one round.

    Attributes:
        what: a few words for the officer.
        unit: whom the event's bound protects.
        channel: who learns it.
        event: what it costs.
    """

    what: str
    unit: Unit
    channel: Channel
    event: Event


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A release by clients that made it, each for itself, in one round.

    Attributes:
        clients: who they are, ascending.
        run: which run it belongs to, where a ledger outlives runs; else empty.
    """

    round: int
    clients: tuple[int, ...]
    release: Release
    run: str = ""

    def __post_init__(self) -> None:
        """Refuse clients out of order, which a file could not tell."""
        ids = self.clients
        if not ids or ids[0] < 0 or not all(map(lt, ids, ids[1:])):
            raise ValueError(f"clients: {ids[:9]!r}; a charge needs ascending ids, at least one")


@dataclass(kw_only=True)
class Ledger:
    """What has been released so far; with a path, every line is on disk before it counts.

    Attributes:
        path: a JSON-lines file, read when it exists; None keeps the ledger in memory.
        charges: in the order they were made; only :meth:`add` may make more.
    """

    path: Path | None = None
    charges: list[Charge] = field(default_factory=list[Charge])
    _by_client: ByClient = field(default_factory=ByClient, init=False, repr=False, compare=False)
    _by_round: dict[tuple[str, int], list[Charge]] = field(init=False, repr=False, compare=False)
    _asked: InRound = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the file; ConfigError when a line is damaged, since a gap would hide spending.

        A last line without its end is being written, or was when the process died: its round has
        not started, so it does not count. Reading changes nothing: the run may still go on.
        """
        if self.path is not None and self.path.exists():
            self.charges = [*_read(self.path)]
        self._by_round, self._asked = {}, InRound([])
        self._index(self.charges)

    def add(self, charges: Iterable[Charge]) -> None:
        """Write charges down; they count from now on, whatever becomes of the round."""
        new = list(charges)
        if self.path is not None and new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                _drop_cut_off(file)
                file.write("".join(_lines(new)).encode())
                file.flush()
                os.fsync(file.fileno())
        self.charges += new
        self._index(new)

    def unpaid(
        self, clients: Sequence[int], planned: Sequence[Release], *, round: int, run: str = ""
    ) -> dict[tuple[Release, ...], list[int]]:
        """Return the clients by the planned releases that this very round has not charged them.

        For a round that is done again, after a kill, with noise that comes out the same: it
        releases nothing that was not released, or at least charged, before.
        """
        charged = self._by_round.get((run, round))
        if charged is None:
            return {tuple(planned): list(clients)} if clients else {}
        if self._asked.charges is not charged:
            self._asked = InRound(charged)
        return self._asked.unpaid(clients, planned)

    def clients(self) -> list[int]:
        """Return the clients that were charged, ascending."""
        return self._clients().clients()

    def of(self, client: int, unit: Unit, channel: Channel) -> list[Charge]:
        """Return one client's charges of one unit and channel, in order."""
        return [
            charge
            for charge in self.all_of(client)
            if (charge.release.unit, charge.release.channel) == (unit, channel)
        ]

    def all_of(self, client: int) -> list[Charge]:
        """Return all charges that one client has a part in, in order."""
        return self._clients().charges(client)

    def epsilon(
        self,
        client: int,
        unit: Unit,
        channel: Channel,
        *,
        delta: float,
        planned: Iterable[Release] = (),
    ) -> float:
        """Return a client's epsilon, with releases that are only planned counted in.

        Only releases of this unit and channel count; units are never added to each other.
        """
        (found,) = self.epsilons([client], unit, channel, delta=delta, planned=planned)
        return found

    def epsilons(
        self,
        clients: Iterable[int],
        unit: Unit,
        channel: Channel,
        *,
        delta: float,
        planned: Iterable[Release] = (),
    ) -> list[float]:
        """Return each client's :meth:`epsilon`, worked out once for those with the same past."""
        more = Counter(r.event for r in planned if (r.unit, r.channel) == (unit, channel))
        found, index = dict[Spent, float](), self._clients()
        pasts = [index.spent(client, (unit, channel)) for client in clients]
        for past in pasts:
            if past not in found:
                found[past] = epsilon_of_counts(past.events + more, delta=delta)
        return [found[past] for past in pasts]

    def _clients(self) -> ByClient:
        """Return the index by client, which few rounds ask for, as it is now."""
        self._by_client.catch_up(self.charges)
        return self._by_client

    def _index(self, charges: Iterable[Charge]) -> None:
        for charge in charges:
            self._by_round.setdefault((charge.run, charge.round), []).append(charge)


def _lines(charges: Iterable[Charge]) -> Iterator[str]:
    spans: dict[tuple[int, ...], list[list[int]]] = {}
    for charge in charges:
        ids, release = charge.clients, charge.release
        if ids not in spans:
            spans[ids] = to_spans(ids)
        tree: dict[str, Any] = {
            "schema": SCHEMA,
            "round": charge.round,
            **({"client": ids[0]} if len(ids) == 1 else {"clients": spans[ids]}),
            "what": release.what,
            "unit": release.unit.value,
            "channel": release.channel.value,
            "event": to_plain(release.event),
        }
        yield json.dumps(tree | ({"run": charge.run} if charge.run else {})) + "\n"


def _who(tree: dict[str, Any]) -> tuple[int, ...]:
    if "client" not in tree:
        return from_spans(tree["clients"])
    if "clients" in tree:
        raise ValueError("it is said twice whose line it is")
    return from_spans([[tree["client"]] * 2])


def _drop_cut_off(file: BinaryIO) -> None:
    """Take off a last line without its end, before another one would be joined to it."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _read(path: Path) -> Iterator[Charge]:
    whole = path.read_bytes()
    complete = whole[: whole.rfind(b"\n") + 1]
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            tree = json.loads(line)
            if tree["schema"] != SCHEMA:
                found = tree["schema"]
                raise ConfigError(f"{path}: line {number} has schema {found!r}, not {SCHEMA}")
            release = Release(
                what=tree["what"],
                unit=Unit(tree["unit"]),
                channel=Channel(tree["channel"]),
                event=from_plain(tree["event"]),
            )
            yield Charge(
                round=tree["round"],
                clients=_who(tree),
                release=release,
                run=tree.get("run", ""),
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{path}: line {number} of the privacy ledger is damaged ({str(line[:40])[1:]}); "
                "what it counted is unknown, so nothing more may be released: restore the file"
            ) from None
