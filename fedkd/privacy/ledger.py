"""The privacy ledger: every release of every client, written down before it happens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError
from fedkd.privacy.accounting import epsilon
from fedkd.privacy.events import Event, Unit, from_plain, to_plain
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
    """A release with its client and round.

    Attributes:
        run: which run it belongs to, where a ledger outlives runs; else empty.
    """

    round: int
    client: int
    release: Release
    run: str = ""


@dataclass(kw_only=True)
class Ledger:
    """What has been released so far; with a path, every line is on disk before it counts.

    Attributes:
        path: a JSON-lines file, read when it exists; None keeps the ledger in memory.
        charges: in the order they were made; only :meth:`add` may make more.
    """

    path: Path | None = None
    charges: list[Charge] = field(default_factory=list[Charge])
    _by_client: dict[int, list[Charge]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the file; ConfigError when a line is damaged, since a gap would hide spending.

        A last line without its end is being written, or was when the process died: its round has
        not started, so it does not count. Reading changes nothing: the run may still go on.
        """
        if self.path is not None and self.path.exists():
            self.charges = [*_read(self.path)]
        self._by_client = {}
        self._index(self.charges)

    def add(self, charges: Iterable[Charge]) -> None:
        """Write charges down; they count from now on, whatever becomes of the round."""
        new = list(charges)
        if self.path is not None and new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_cut_off(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(_line(charge) + "\n" for charge in new)
                file.flush()
                os.fsync(file.fileno())
        self.charges += new
        self._index(new)

    def unpaid(
        self, client: int, planned: Sequence[Release], *, round: int, run: str = ""
    ) -> list[Release]:
        """Return the planned releases that this very round has not been charged yet.

        For a round that is done again, after a kill, with noise that comes out the same: it
        releases nothing that was not released, or at least charged, before.
        """
        before = [
            charge.release
            for charge in self.all_of(client)
            if charge.round == round and charge.run == run
        ]
        left: list[Release] = []
        for release in planned:
            if release in before:
                before.remove(release)
            else:
                left.append(release)
        return left

    def clients(self) -> list[int]:
        """Return the clients that were charged, ascending."""
        return sorted(self._by_client)

    def of(self, client: int, unit: Unit, channel: Channel) -> list[Charge]:
        """Return one client's charges of one unit and channel, in order."""
        return [
            charge
            for charge in self.all_of(client)
            if (charge.release.unit, charge.release.channel) == (unit, channel)
        ]

    def all_of(self, client: int) -> list[Charge]:
        """Return all of one client's charges, in order."""
        return list(self._by_client.get(client, ()))

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
        events = [charge.release.event for charge in self.of(client, unit, channel)]
        events += [r.event for r in planned if (r.unit, r.channel) == (unit, channel)]
        return epsilon(events, delta=delta)

    def _index(self, charges: Iterable[Charge]) -> None:
        for charge in charges:
            self._by_client.setdefault(charge.client, []).append(charge)


def _line(charge: Charge) -> str:
    release = charge.release
    tree: dict[str, Any] = {
        "schema": SCHEMA,
        "round": charge.round,
        "client": charge.client,
        "what": release.what,
        "unit": release.unit.value,
        "channel": release.channel.value,
        "event": to_plain(release.event),
    }
    return json.dumps(tree | ({"run": charge.run} if charge.run else {}))


def _drop_cut_off(path: Path) -> None:
    """Take off a last line without its end, before another one would be joined to it."""
    whole = path.read_bytes() if path.exists() else b""
    complete = whole.rfind(b"\n") + 1
    if complete < len(whole):
        os.truncate(path, complete)


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
                client=tree["client"],
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
