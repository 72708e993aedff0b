"""What a run leaves behind, as numbers: measurements round by round, a summary, a result hash."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor

from fedkd.types import Broadcast, ProxySet, Update, Upload

SERVER = -1
"""The client column of measurements that are about the whole run."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number: a row of the run's long-format table.

    Attributes:
        round: 0 for set-up, then 1, 2, ...
        client: a client id, or ``SERVER``.
        name: see docs/run_folder.md.
        value: always a float.
    """

    round: int
    client: int
    name: str
    value: float


class Loss(StrEnum):
    """Why the server has no use for a delivery, or got none."""

    NO_ANSWER = "no answer"
    LATE = "late: it came after deadline_s"
    OTHER_CLIENT = "dropped: it speaks for another client than its channel's"
    SECOND = "refused: one upload per (client, round)"
    OTHER_ROUND = "refused: round token does not match"


@dataclass(frozen=True)
class Failure:
    """A client that was asked and gave nothing usable, or a delivery that was refused.

    Attributes:
        reason: the exception's type on the client, or why the server dropped the upload: a
            :class:`Loss`, or the check that it failed.
    """

    round: int
    client: int
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedUploads:
    """What the server holds of uploads of which it can read only the sum.

    Attributes:
        rows: int64 ``[n]``, ascending, the proxy rows that enough members kept.
        words: uint32 ``[n, classes + 1]`` by client: masked scores and, last, a masked weight.
            All members' words added modulo 2^32 are the sum; any fewer are uniform noise.
    """

    rows: Tensor
    words: Mapping[int, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class Traffic:
    """What the server received and made in a round; a transcript keeps it, nothing else does.

    Attributes:
        uploads: sound uploads by client; none where the server sees masked sums only.
        masked: what it holds instead where it sees masked sums only.
        broadcast: what every client is sent next.
        proxy: the proxy set, in round 0.
        student: the parameters of the server's student after the round, or None.
    """

    uploads: Mapping[int, Upload] = field(default_factory=dict[int, Upload])
    masked: MaskedUploads | None = None
    broadcast: Broadcast | None = None
    proxy: ProxySet | None = None
    student: Update | None = None


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What one round left behind; the round loop yields these.

    Attributes:
        round: 0 for set-up.
        cohort: the clients that were asked.
        measurements: everything measured in the round.
        failures: clients that gave nothing usable.
        refused: deliveries beside the one that counted; their clients may have given something.
        stood_in: clients of which the upload of the round before was used, for want of a new one.
        left_out: clients drawn for the round whose privacy budget it would have exceeded.
        digest: SHA-256 of the round's broadcast; empty when there is none.
        ended: why the run ends here, before its last round; empty when it does not.
        traffic: the messages themselves; dropped from results that are kept.
    """

    round: int
    cohort: list[int]
    measurements: list[Measurement]
    failures: list[Failure] = field(default_factory=list[Failure])
    refused: list[Failure] = field(default_factory=list[Failure])
    stood_in: list[int] = field(default_factory=list[int])
    left_out: list[int] = field(default_factory=list[int])
    digest: str = ""
    ended: str = ""
    traffic: Traffic | None = None


def from_event(event: Mapping[str, Any]) -> RoundResult:
    """Return the result that a line of ``events.jsonl`` was written from."""
    return RoundResult(
        round=event["round"],
        cohort=event["cohort"],
        measurements=[Measurement(**m) for m in event["measurements"]],
        failures=[Failure(**f) for f in event["failures"]],
        refused=[Failure(**f) for f in event["refused"]],
        stood_in=event["stood_in"],
        left_out=event["left_out"],
        digest=event["digest"],
        ended=event["ended"],
    )


def result_hash(rounds: Sequence[RoundResult]) -> str:
    """Return 16 hex digits of everything a run computed: broadcasts, bytes and measurements.

    Times are left out, and deliveries that were refused: they changed nothing. Equal on one kind
    of machine for equal scenarios.
    """
    sha = hashlib.sha256()
    for result in rounds:
        sha.update(f"{result.round} {result.cohort} {result.digest}\n".encode())
        for m in result.measurements:
            if not m.name.startswith("seconds"):
                sha.update(f"{m.client} {m.name} {m.value.hex()}\n".encode())
        for failure in result.failures:
            sha.update(f"{failure.client} failed: {failure.reason}\n".encode())
        if result.stood_in:
            sha.update(f"stood in {result.stood_in}\n".encode())
        if result.left_out:
            sha.update(f"left out {result.left_out}\n".encode())
    return sha.hexdigest()[:16]


def summarise(
    rounds: Sequence[RoundResult], *, adversaries: Collection[int] = ()
) -> dict[str, Any]:
    """Return the figures of a run's table; None where nothing was measured.

    Client accuracies are those of the last measured round, without the ``adversaries``, whose
    models are nobody's aim. Shares are in [0, 1], bytes are serialised bytes summed over clients
    and rounds, ``bytes_by_kind`` splits them.
    """
    measured = [m for result in rounds for m in result.measurements]
    table = [m for m in measured if m.client not in adversaries]
    accuracies = latest(table, "accuracy")
    sizes: dict[str, dict[str, int]] = {"up": {}, "down": {}}
    for m in table:
        if m.name.startswith("bytes_"):
            direction, kind = m.name.removeprefix("bytes_").split(".")
            sizes[direction][kind] = sizes[direction].get(kind, 0) + int(m.value)
    timed = [m.value for m in table if m.name == "seconds" and m.round > 0]
    return {
        "rounds_done": max((result.round for result in rounds if result.cohort), default=0),
        "accuracy_mean": _mean(accuracies),
        "accuracy_worst": min(accuracies, default=None),
        "accuracy_distilled_mean": _mean(latest(table, "accuracy_distilled")),
        "accuracy_local_mean": _mean(latest(table, "accuracy_local")),
        "teacher_accuracy": _mean(latest(table, "teacher_accuracy")),
        "server_accuracy": _mean(latest(table, "server_accuracy")),
        "bits_per_character_mean": _mean(latest(table, "bits_per_character")),
        "bits_per_character_distilled_mean": _mean(latest(table, "bits_per_character_distilled")),
        "bits_per_character_local_mean": _mean(latest(table, "bits_per_character_local")),
        "server_bits_per_character": _mean(latest(table, "server_bits_per_character")),
        "coverage": _mean(latest(table, "coverage")),
        "keepers_per_row": _mean(latest(table, "keepers_per_row")),
        "keep_precision": _mean(latest(table, "keep_precision")),
        "keep_recall": _mean(latest(table, "keep_recall")),
        "bytes_up": sum(sizes["up"].values()),
        "bytes_down": sum(sizes["down"].values()),
        "bytes_by_kind": sizes,
        "seconds_per_round": _mean(timed),
        "virtual_seconds": _total(table, "virtual_seconds"),
        "energy_j": _total(table, "energy_j"),
        "failures": sum(len(result.failures) for result in rounds),
        "refused": sum(len(result.refused) for result in rounds),
        "stood_in": sum(len(result.stood_in) for result in rounds),
        "left_out": sum(len(result.left_out) for result in rounds),
        "ended_early": next((result.ended for result in rounds if result.ended), None),
        "result_hash": result_hash(rounds),
    }


def latest(table: Sequence[Measurement], name: str) -> list[float]:
    """Return the values of ``name`` in the last round that has it, by client."""
    rows = [m for m in table if m.name == name]
    last = max((m.round for m in rows), default=0)
    return [m.value for m in rows if m.round == last]


def _total(table: Sequence[Measurement], name: str) -> float | None:
    values = [m.value for m in table if m.name == name]
    return sum(values) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
