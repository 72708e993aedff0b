"""A transcript through one adversary's eyes: what it did not see, it is not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fedkd.audit.views import Adversary, NotSeen
from fedkd.privacy.masked_sums import WORD_BITS
from fedkd.results import MaskedUploads
from fedkd.types import Consensus, Knowledge, ProxySet, Space, Update

if TYPE_CHECKING:
    from fedkd.transcript import Transcript


class Seen:
    """A :class:`fedkd.audit.views.View` of a transcript; made by ``Transcript.seen_by``.

    Attributes:
        adversary: whose view it is.
    """

    def __init__(
        self, transcript: Transcript, adversary: Adversary, *, client: int | None = None
    ) -> None:
        self.adversary = adversary
        self._transcript, self._client = transcript, client

    def rounds(self) -> tuple[int, ...]:
        """Return the rounds that were kept, ascending."""
        self._only(Adversary.SERVER, Adversary.CLIENT, what="what passed in any round")
        return self._transcript.rounds()

    def proxy(self) -> ProxySet:
        """Return the proxy set; a client is told its own rows and no other owner."""
        self._only(Adversary.SERVER, Adversary.CLIENT, what="the proxy set")
        proxy = self._transcript.proxy()
        if proxy is None:
            raise NotSeen("there is no proxy set: the run's method exchanges parameters")
        return proxy if self._client is None else proxy.seen_by(self._client)

    def uploads(self, round: int) -> Mapping[int, Knowledge]:
        """Return what each client sent.

        With masked sums each client answers about every summed row, whether it kept it or not;
        its scores are its masked words modulo 2^32 over 2^32, each row divided by its sum.
        """
        self._only(Adversary.SERVER, what="any client's upload")
        traffic = self._transcript.traffic(round)
        if traffic.masked is not None:
            temperature = self.consensus(round).temperature
            return _as_scores(traffic.masked, temperature=temperature)
        knowledge = {c: u for c, u in traffic.uploads.items() if isinstance(u, Knowledge)}
        if not knowledge and traffic.uploads:
            raise NotSeen("no client sent knowledge: the run's method exchanges parameters")
        return knowledge

    def consensus(self, round: int) -> Consensus:
        """Return what every client was sent after the round; a client's copy lacks keepers."""
        self._only(Adversary.SERVER, Adversary.CLIENT, what="the consensus")
        sent = self._transcript.traffic(round).broadcast
        if not isinstance(sent, Consensus):
            raise NotSeen("there is no consensus: the run's method does not make one")
        return sent if self._client is None else replace(sent, keepers=None)

    def student(self) -> Update:
        """Return the final student's parameters; a server holds its own student too."""
        self._only(Adversary.SERVER, Adversary.STUDENT_HOLDER, what="the server's student")
        student = self._transcript.student()
        if student is None:
            raise NotSeen("the server trained no student; run it again with server_model=cnn_small")
        return student

    def _only(self, *adversaries: Adversary, what: str) -> None:
        if self.adversary not in adversaries:
            raise NotSeen(f"the adversary {self.adversary.value!r} never sees {what}")


def _as_scores(masked: MaskedUploads, *, temperature: float) -> dict[int, Knowledge]:
    found: dict[int, Knowledge] = {}
    for client, words in masked.words.items():
        shares = words[:, :-1].double() / 2**WORD_BITS
        total = shares.sum(dim=1, keepdim=True).clamp(min=2.0**-WORD_BITS)
        found[client] = Knowledge(
            rows=masked.rows,
            scores=(shares / total).float(),
            weights=torch.ones(len(masked.rows)),
            space=Space.PROBS,
            temperature=temperature,
        )
    return found
