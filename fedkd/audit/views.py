"""What an adversary of a run saw; asking a view for more is an error, not an answer."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from fedkd.types import Consensus, Knowledge, ProxySet, Update


class Adversary(StrEnum):
    """Who looks; all are honest but curious."""

    SERVER = "server"
    """Sees every upload (or every masked upload and the sums), all rounds, the proxy set."""
    CLIENT = "client"
    """Sees the proxy set with its own rows marked, and the consensus of every round."""
    STUDENT_HOLDER = "student holder"
    """Holds the final student and nothing else."""


class Channel(StrEnum):
    """Where something leaves."""

    UPLOADS = "uploads"
    CONSENSUS = "consensus"
    STUDENT = "student"
    SIDE = "side channels"
    """Sizes, masks, weights, temperatures and counts of uploads, without any score."""


class NotSeen(Exception):
    """An attack asked for something that its adversary never saw."""


class View(Protocol):
    """A run through one adversary's eyes; every method raises :class:`NotSeen` beyond that."""

    adversary: Adversary

    def rounds(self) -> tuple[int, ...]:
        """Return the rounds that were kept, ascending."""
        ...

    def proxy(self) -> ProxySet:
        """Return the proxy set, with owners as far as the adversary knows them."""
        ...

    def uploads(self, round: int) -> Mapping[int, Knowledge]:
        """Return what each client sent.

        Of masked uploads, the masked words as if they were scores: all a server has of one.
        """
        ...

    def consensus(self, round: int) -> Consensus:
        """Return what every client was sent after the round."""
        ...

    def student(self) -> Update:
        """Return the final student's parameters."""
        ...
