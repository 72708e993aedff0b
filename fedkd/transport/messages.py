"""What the server asks of a client and what the client answers, before it becomes bytes.

Requests and replies are not to be changed once they are made. They are not frozen because a round
makes thousands, and a frozen record takes three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor

from fedkd.types import Broadcast, ProxySet, Upload


class Action(StrEnum):
    """The requests a client understands; the values are Flower message types."""

    HELLO = "query.hello"
    """Who are you? In a simulation, the answer is the partition id."""
    CONTRIBUTE = "train.contribute"
    """Give the private examples you agreed to share in clear (pooled proxy only)."""
    ROUND = "train.round"
    """Do one round and upload; with masked sums, keep the upload and say how many rows it holds
    only through a mask, as for ``COUNTS``."""
    KEYS = "train.keys"
    """Make a key pair for masked sums and give its public half."""
    COUNTS = "train.counts"
    """Say again, among fewer members, which rows you kept: a masked word of 0 or 1 a proxy row."""
    SCORES = "train.scores"
    """Give your weighted scores and weights for the announced rows, masked."""
    MEASURE = "query.measure"
    """Simulator only, an oracle: how good is your model? Outside bytes, ledger and transcript."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Keys:
    """The public keys of all clients, as the server relays them.

    Attributes:
        clients: int64 ``[n]``, ascending.
        public: uint8 ``[n, 32]``, X25519.
    """

    clients: Tensor
    public: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Roll:
    """Among whom a masked sum is taken.

    Attributes:
        members: client ids, ascending; all of them answer or nobody can read the sum.
        attempt: from 1, one more each time a round's sums are begun again with fresh masks.
        rows: int64, ascending: the proxy rows to sum, announced for ``Action.SCORES``.
    """

    members: tuple[int, ...]
    attempt: int = 1
    rows: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What one side says of itself in the handshake.

    Attributes:
        version: of its fedkd.
        scenario: hash of the scenario it runs.
        simulated: a client in a simulation, which lets itself be measured.
    """

    version: str
    scenario: str
    simulated: bool = False


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """One question to one client.

    Attributes:
        action: what to do.
        client: whom it is for, by client id.
        round: the current round, from 1; 0 during set-up.
        incoming: the newest broadcast, if there is one.
        proxy: the proxy set, when the client does not have this version yet.
        closing: measure a copy that has also taken in ``incoming``.
        roll: for masked sums, among whom.
        keys: for masked sums, everybody's public keys, when the client does not have them yet.
        hello: who asks, for ``Action.HELLO`` only.
    """

    action: Action
    client: int
    round: int = 0
    incoming: Broadcast | None = None
    proxy: ProxySet | None = None
    closing: bool = False
    roll: Roll | None = None
    keys: Keys | None = None
    hello: Hello | None = None


@dataclass(eq=False, kw_only=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        client: who answers, by its own account; the server checks it.
        upload: knowledge or an update, after protection.
        contribution: private examples shared in clear.
        metrics: measurements, for ``Action.MEASURE`` only.
        key: uint8 ``[32]``, the public half of a new key pair, for ``Action.KEYS`` only.
        masked: uint32, ``[proxy]`` counts or ``[n, classes + 1]`` weighted scores and weights,
            each word uniform until those of all members are added modulo 2^32.
        hello: who answers, for ``Action.HELLO`` only.
        error: what kind of exception kept the client from answering; empty for none. Nothing of
            its text leaves the client.
    """

    client: int
    upload: Upload | None = None
    contribution: ProxySet | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    key: Tensor | None = None
    masked: Tensor | None = None
    hello: Hello | None = None
    error: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Delivery:
    """One reply as it reaches the server.

    Attributes:
        client: whose authenticated channel it came over, whatever the reply says.
        round: whose request it answers, by its envelope: the token of the round.
        reply: what its bytes said; an error where they could not be read.
        seconds: when it came, in virtual seconds after the round began.
    """

    client: int
    round: int
    reply: Reply
    seconds: float = 0.0


class ErrorCode:
    """Codes of failed replies; the reason carries an exception's type and nothing of its text."""

    RAISED = 2
