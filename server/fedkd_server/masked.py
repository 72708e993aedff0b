"""The server's side of masked sums: two exchanges a round, of which it can read only the sums.

First it learns how many members kept each row; only rows with ``n_min`` keepers are announced and
summed. Each answer alone is uniform noise. What the sums still tell, and against whom this holds,
is said in ``fedkd_clients.masking``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedkd.aggregators.base import Sums
from fedkd.errors import RunStopped
from fedkd.privacy.masked_sums import Words, added, steps_per_unit, sums_from
from fedkd.results import Failure, MaskedUploads
from fedkd.scenario import Scenario
from fedkd.simplex import TOLERANCE
from fedkd.transport.messages import Action, Keys, Reply, Request, Roll
from fedkd_server.exchange import Answers, Exchange
from fedkd_server.validation import Expected, UploadError

KEY_BYTES = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Gathered:
    """What one round's masked sums came to.

    Attributes:
        sums: over all members that stayed to the end; rows with too few keepers hold none.
        masked: what they were added from.
        figures: measurements that depend on no mask.
    """

    sums: Sums
    masked: MaskedUploads
    figures: dict[str, float]


class MaskedSums:
    """Runs the protocol over an exchange, begun again whenever a member falls silent.

    Attributes:
        keys: everybody's public keys, once gathered.
        informed: clients that have them.
    """

    def __init__(self, exchange: Exchange, scenario: Scenario, expected: Expected) -> None:
        self._exchange, self._n_min, self._expected = exchange, scenario.n_min, expected
        self._clients = scenario.participants()
        self.keys: Keys | None = None
        self.informed: set[int] = set()
        self._first = 1
        self._roll = Roll(members=())

    def gather_keys(self, answers: Answers) -> None:
        """Ask every client for a public key, once a run; bytes are added to ``answers``.

        Raises:
            RunStopped: a key is missing; its client could take part in no sum.
        """
        asked = [Request(action=Action.KEYS, client=client) for client in self._clients]
        found = self._asked(asked, answers)
        for client in self._clients:
            reply = found.get(client, Reply(client=client))
            if reply.key is None or not _is(reply.key, torch.uint8, (KEY_BYTES,)):
                reasons = [f.reason for f in answers.failures if f.client == client]
                raise RunStopped(
                    f"set-up: client {client} gave no key for masked sums "
                    f"({', '.join(reasons) or 'none in its reply'}); start it anew, or use "
                    "server_view=uploads"
                )
        public = [key for reply in found.values() if (key := reply.key) is not None]
        self.keys = Keys(clients=torch.tensor(list(found)), public=torch.stack(public))

    def recall(self, clients: Tensor, public: Tensor, informed: Iterable[int]) -> None:
        """Take back the keys, and who has them, from a checkpoint.

        Clients that outlived the server may have answered the round that it does again; a pad is
        used once, so that the numbers of attempts go on from the clock.
        """
        self.keys, self.informed = Keys(clients=clients, public=public), set(informed)
        if not self._exchange.simulated:
            self._first = int(time.time())

    def opening(self, requests: Sequence[Request]) -> list[Request]:
        """Return a round's requests with the members named, and keys for those who lack them."""
        members = tuple(request.client for request in requests)
        self._roll = Roll(members=members, attempt=self._first)
        return [
            replace(
                request,
                roll=self._roll,
                keys=None if request.client in self.informed else self.keys,
            )
            for request in requests
        ]

    def gathered(self, answers: Answers, *, round: int) -> Gathered:
        """Finish the round that :meth:`opening` began, in as many attempts as it takes.

        Args:
            answers: to the opening requests; further bytes and failures are added.
            round: the current round.

        Raises:
            RunStopped: fewer than n_min members are left, or their masks do not cancel.
        """
        self.informed.update(answers.replies)
        roll, n_rows = self._roll, self._expected.n_rows
        parts = self._sound(answers.replies, (n_rows,), answers, round=round)
        while True:
            if len(parts) == len(roll.members):
                counts = torch.from_numpy(added(parts.values()).astype(np.int64))
                rows = torch.nonzero(counts >= self._n_min).flatten()
                parts = self._scores(replace(roll, rows=rows), answers, round=round)
                if len(parts) == len(roll.members):
                    return self._finished(parts, rows, counts, attempt=roll.attempt, round=round)
            self._check_enough(tuple(parts), round=round, failures=answers.failures)
            roll = Roll(members=tuple(parts), attempt=roll.attempt + 1)
            replies = self._asked(_requests(Action.COUNTS, roll, round), answers)
            parts = self._sound(replies, (n_rows,), answers, round=round)

    def _scores(self, roll: Roll, answers: Answers, *, round: int) -> dict[int, Words]:
        """Ask for the announced rows; with none, there is nothing to ask."""
        rows = torch.empty(0) if roll.rows is None else roll.rows
        shape = (len(rows), self._expected.n_classes + 1)
        if not len(rows):
            return {member: np.zeros(shape, dtype=np.uint32) for member in roll.members}
        replies = self._asked(_requests(Action.SCORES, roll, round), answers)
        return self._sound(replies, shape, answers, round=round)

    def _finished(
        self, parts: dict[int, Words], rows: Tensor, counts: Tensor, *, attempt: int, round: int
    ) -> Gathered:
        n_members = len(parts)
        sums = sums_from(
            added(parts.values()),
            rows=rows,
            counts=counts,
            n_members=n_members,
            temperature=self._expected.temperature,
        )
        slack = (self._expected.n_classes + 1) * n_members / (2 * steps_per_unit(n_members))
        off = (sums.scores.sum(dim=1) - sums.mass).abs() > TOLERANCE * sums.mass + slack
        if bool((counts > n_members).any() | (sums.mass > sums.keepers + slack).any() | off.any()):
            raise RunStopped(
                f"round {round}: the masked sums of {n_members} clients are no sums of "
                "probabilities; a client does not follow the protocol, and sums cannot tell which "
                "(server_view=uploads can)"
            )
        withheld = int((counts > 0).sum()) - int((sums.keepers > 0).sum())
        figures = {"rows_withheld": float(withheld), "attempts": float(attempt - self._first + 1)}
        words = {client: torch.from_numpy(part) for client, part in parts.items()}
        return Gathered(sums=sums, masked=MaskedUploads(rows=rows, words=words), figures=figures)

    def _asked(self, requests: Sequence[Request], answers: Answers) -> dict[int, Reply]:
        part = self._exchange.ask(requests)
        answers.bytes_down.update(part.bytes_down)
        answers.bytes_up.update(part.bytes_up)
        answers.failures += part.failures
        return part.replies

    def _sound(
        self,
        replies: dict[int, Reply],
        shape: tuple[int, ...],
        answers: Answers,
        *,
        round: int,
    ) -> dict[int, Words]:
        """Return the words of good shape by client; the others have failed."""
        parts: dict[int, Words] = {}
        for client, reply in replies.items():
            try:
                parts[client] = _words(reply.masked, shape)
            except UploadError as error:
                answers.failures.append(Failure(round, client, f"dropped: {error}"))
        return parts

    def _check_enough(
        self, members: Sequence[int], *, round: int, failures: Sequence[Failure]
    ) -> None:
        if len(members) < self._n_min:
            first = "; ".join(f"client {f.client}: {f.reason}" for f in failures[:5])
            raise RunStopped(
                f"round {round}: {len(members)} clients are too few for masked sums with "
                f"n_min={self._n_min} ({first})"
            )


def _requests(action: Action, roll: Roll, round: int) -> list[Request]:
    return [Request(action=action, client=c, round=round, roll=roll) for c in roll.members]


def _words(values: Tensor | None, shape: tuple[int, ...]) -> Words:
    """Return masked words as they can be added; UploadError otherwise."""
    if values is None:
        raise UploadError("no masked words in the reply")
    if not _is(values, torch.uint32, shape):
        raise UploadError("masked words of another shape or type")
    return values.numpy()


def _is(values: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return values.dtype == dtype and tuple(values.shape) == shape
