"""A client's side of masked sums: its answers are uniform noise until all members' are added.

Every two members draw a pad for each sum, which one adds and the other subtracts modulo 2^32
(``pads.py``); the secrets behind it are never told.
After Bonawitz et al. 2017, https://eprint.iacr.org/2017/281, without its secret sharing: when a
member falls silent, the others begin again among themselves with fresh pads.

Threat model. The server and any members but two may be curious and pool what they see, and all
follow the protocol: the server relays every client's own key and lists no member that is not
there. They learn sums over the members outside their pool, and nothing more, but for this:

* How many members kept each row is a sum too, and what clients keep is computed from their data.
  Curious members count among the n_min keepers that a summed row needs.
* Sums over different members can be subtracted. When a client falls silent between two attempts
  of a round, or takes part in one round and not in the next, the difference of the counts is its
  choice of rows. Where a client's scores come in after the others began again, or a lying server
  only pretends that it fell silent, the difference is its scores; nothing here detects that.
* The sums themselves carry no noise: this hides clients among clients, it is not differential
  privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedkd.privacy.masked_sums import Words, to_words
from fedkd.protectors.base import dense
from fedkd.simplex import TOLERANCE
from fedkd.transport.messages import Keys, Roll
from fedkd.types import Knowledge, Space
from fedkd_clients.pads import KEY_BYTES, mask, new_key, public_half

ROUNDING = 1e-6
"""How far above 1 a float32 probability may be; it is cut to 1."""


class MaskingError(ValueError):
    """A request whose answer could tell more than a sum, so that there is none."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The sum a client takes part in; every one of its pads is used once.

    Attributes:
        scored: whether the scores of this turn were given, after which it is over.
    """

    client: int
    round: int
    attempt: int
    members: tuple[int, ...]
    scored: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Held:
    """An upload that was kept back.

    Attributes:
        rows: int64 ``[n]``, the proxy rows the client kept.
        values: float64 ``[n, classes + 1]`` in [0, 1]: weight times score, and the weight.
    """

    rows: Tensor
    values: Tensor


@dataclass(eq=False, kw_only=True)
class Masking:
    """What one client remembers for masked sums; all of it stays on the client's side.

    Attributes:
        private: uint8 ``[32]``, its X25519 key, drawn from the operating system.
        peers: everybody's public key as it was first seen, its own included.
        turn: the newest sum it took part in.
        held: this round's upload.
    """

    private: Tensor | None = None
    peers: dict[int, bytes] = field(default_factory=dict[int, bytes])
    turn: Turn | None = None
    held: Held | None = None

    def public_key(self) -> Tensor:
        """Return the public half, uint8 ``[32]``; the pair is made when there is none."""
        if self.private is None:
            self.private = _tensor(new_key())
        return _tensor(public_half(self._private()))

    def learn(self, keys: Keys, *, client: int) -> None:
        """Remember public keys; MaskingError when one changed or the client's own is not there."""
        shape = (len(keys.clients), KEY_BYTES)
        if keys.public.dtype != torch.uint8 or keys.public.shape != shape:
            raise MaskingError(f"{tuple(keys.public.shape)} bytes of keys, not {shape}")
        public = {int(c): _bytes(key) for c, key in zip(keys.clients, keys.public, strict=True)}
        if public.get(client) != _bytes(self.public_key()):
            raise MaskingError(f"the server gives another key for client {client} than its own")
        for other, key in public.items():
            if self.peers.get(other, key) != key:
                raise MaskingError(f"the key of client {other} changed")
        self.peers |= public

    def begin(self, roll: Roll | None, *, client: int, round: int, n_min: int) -> None:
        """Use up a (round, attempt); MaskingError unless it is new and its members will do."""
        if roll is None:
            raise MaskingError("no members were named; uploads leave through masked sums only")
        members, before = roll.members, self.turn
        if before is not None and (round, roll.attempt) <= (before.round, before.attempt):
            raise MaskingError(f"round {round}, attempt {roll.attempt} would use a mask twice")
        if list(members) != sorted(set(members)) or client not in members:
            raise MaskingError(f"members {members} are out of order, or lack client {client}")
        if len(members) < n_min:
            raise MaskingError(f"{len(members)} members, fewer than n_min={n_min}")
        if not self.peers.keys() >= set(members):
            raise MaskingError(f"no key for members {sorted(set(members) - self.peers.keys())}")
        if before is None or before.round != round:
            self.held = None
        self.turn = Turn(client=client, round=round, attempt=roll.attempt, members=members)

    def hold(self, upload: Knowledge, *, n_rows: int, n_classes: int) -> None:
        """Keep an upload back; ValueError when it is not one the server could sum."""
        upload = dense(upload, n_classes=n_classes)
        _check(upload, n_rows=n_rows, n_classes=n_classes)
        weights = upload.weights.detach().cpu().double()
        values = torch.ones(len(upload), n_classes + 1, dtype=torch.float64)
        if len(upload):
            values[:, :-1] = upload.scores.detach().cpu().double().clamp(max=1)
        self.held = Held(rows=upload.rows.cpu(), values=values * weights[:, None])

    def counts(self, *, n_rows: int) -> Tensor:
        """Return 1 for kept rows and 0 for others, masked: uint32 ``[proxy]``."""
        turn, held = self._open()
        kept = np.zeros(n_rows, dtype=np.uint32)
        kept[held.rows.numpy()] = 1
        return torch.from_numpy(kept + self._mask(turn, "counts", kept.shape))

    def scores(self, roll: Roll | None, *, round: int, n_rows: int) -> Tensor:
        """Return weighted scores and weights of the announced rows, masked, zeros where not kept.

        Raises:
            MaskingError: not the sum whose counts were given, or given already, or bad rows.
        """
        turn, held = self._open()
        rows = None if roll is None else roll.rows
        if roll is None or rows is None:
            raise MaskingError("no members or no rows were announced")
        if (round, roll.attempt, roll.members) != (turn.round, turn.attempt, turn.members):
            raise MaskingError(f"scores are asked for another sum than round {turn.round}'s counts")
        if turn.scored:
            raise MaskingError(f"round {round}, attempt {roll.attempt} was answered already")
        if bool((rows[1:] <= rows[:-1]).any()) or bool(((rows < 0) | (rows >= n_rows)).any()):
            raise MaskingError("announced rows are out of order or outside the proxy set")
        self.turn = replace(turn, scored=True)
        dense = torch.zeros(n_rows, held.values.shape[1], dtype=torch.float64)
        dense[held.rows] = held.values
        words = to_words(dense[rows], n_members=len(turn.members))
        return torch.from_numpy(words + self._mask(turn, "scores", words.shape))

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it as named tensors, to be stored where only the client can read."""
        tensors: dict[str, Tensor] = {}
        if self.private is not None:
            tensors["masking.private"] = self.private
        if self.peers:
            tensors["masking.clients"] = torch.tensor(list(self.peers))
            tensors["masking.public"] = _tensor(b"".join(self.peers.values()))
        if self.turn is not None:
            turn = self.turn
            facts = [turn.client, turn.round, turn.attempt, int(turn.scored), *turn.members]
            tensors["masking.turn"] = torch.tensor(facts)
        if self.held is not None:
            tensors |= {"masking.rows": self.held.rows, "masking.values": self.held.values}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Masking:
        """Read back what :meth:`tensors` returned, among other tensors or none."""
        masking = cls(private=tensors.get("masking.private"))
        if "masking.clients" in tensors:
            public = tensors["masking.public"].reshape(-1, KEY_BYTES)
            clients = tensors["masking.clients"].tolist()
            masking.peers = {c: _bytes(key) for c, key in zip(clients, public, strict=True)}
        if "masking.turn" in tensors:
            client, round, attempt, scored, *members = tensors["masking.turn"].tolist()
            masking.turn = Turn(
                client=client,
                round=round,
                attempt=attempt,
                members=tuple(members),
                scored=bool(scored),
            )
        if "masking.rows" in tensors:
            masking.held = Held(rows=tensors["masking.rows"], values=tensors["masking.values"])
        return masking

    def _private(self) -> bytes:
        if self.private is None:
            raise MaskingError("masked sums were begun without a key pair")
        return _bytes(self.private)

    def _open(self) -> tuple[Turn, Held]:
        if self.turn is None or self.held is None:
            raise MaskingError("there is no upload of this round to sum")
        return self.turn, self.held

    def _mask(self, turn: Turn, phase: str, shape: tuple[int, ...]) -> Words:
        """Return this client's mask for one phase of one sum."""
        members = {member: self.peers[member] for member in turn.members}
        use = turn.round.to_bytes(8) + turn.attempt.to_bytes(8) + phase.encode()
        return mask(self._private(), members, client=turn.client, use=use, shape=shape)


def _check(upload: Knowledge, *, n_rows: int, n_classes: int) -> None:
    """Refuse what the server would drop if it could see it."""
    rows, scores, weights = upload.rows, upload.scores, upload.weights
    if upload.space is not Space.PROBS or upload.classes is not None:
        raise ValueError("masked sums need probabilities over the common label space")
    if upload.row_temperatures is not None:
        raise ValueError("temperatures told row by row would leave beside the masked sums")
    if len(rows) and (scores.shape != (len(rows), n_classes) or weights.shape != rows.shape):
        raise ValueError(f"{tuple(scores.shape)} scores for {len(rows)} rows, {n_classes} classes")
    if bool((rows[1:] <= rows[:-1]).any()) or bool(((rows < 0) | (rows >= n_rows)).any()):
        raise ValueError("rows are out of order or outside the proxy set")
    if not bool(((weights > 0) & (weights <= 1)).all()):
        raise ValueError("weights outside (0, 1]")
    if not bool(((scores >= 0) & (scores <= 1 + ROUNDING)).all()):
        raise ValueError("scores outside [0, 1]")
    if len(rows) and bool(((scores.sum(dim=1) - 1).abs() > TOLERANCE).any()):
        raise ValueError("rows that are not probabilities")


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _bytes(values: Tensor) -> bytes:
    return values.cpu().numpy().tobytes()
