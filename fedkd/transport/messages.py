"""What the server asks of a client and what the client answers, before it becomes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fedkd.types import Broadcast, ProxySet, Upload


class Action(StrEnum):
    """The requests a client understands; the values are Flower message types."""

    HELLO = "query.hello"
    """Who are you? In a simulation, the answer is the partition id."""
    CONTRIBUTE = "train.contribute"
    """Give the private examples you agreed to share in clear (pooled proxy only)."""
    ROUND = "train.round"
    """Do one round and upload."""
    MEASURE = "query.measure"
    """Simulator only, an oracle: how good is your model? Outside bytes, ledger and transcript."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One question to one client.

    Attributes:
        action: what to do.
        client: whom it is for, by client id.
        round: the current round, from 1; 0 during set-up.
        incoming: the newest broadcast, if there is one.
        proxy: the proxy set, when the client does not have this version yet.
        closing: measure a copy that has also taken in ``incoming``.
    """

    action: Action
    client: int
    round: int = 0
    incoming: Broadcast | None = None
    proxy: ProxySet | None = None
    closing: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        client: who answers, by its own account; the server checks it.
        upload: knowledge or an update, after protection.
        contribution: private examples shared in clear.
        metrics: measurements, for ``Action.MEASURE`` only.
    """

    client: int
    upload: Upload | None = None
    contribution: ProxySet | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class ErrorCode:
    """Codes of failed replies; the reason carries an exception's type and nothing of its text."""

    RAISED = 2
