"""What an adversary client is: it takes part in every round and sends what suits it.

It knows what any client knows: its own examples and model, what it was sent, and the scenario.
Adversaries of one run can agree on things beforehand, and draw the same random numbers if they
do, but they do not see each other's uploads during a round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.methods.base import MessageKind
from fedkd.registry import Registry, describe
from fedkd.rng import torch_stream
from fedkd.types import Consensus, Knowledge, Space

Id = Annotated[int, Ge(0)]
Clients = Id | tuple[Id, ...]
"""How many clients are adversaries, the last ones by id; or which, by id."""
Strength = Annotated[float, Interval(ge=0, le=1)]
"""Share of the rows that are poisoned, drawn anew each round; 0 is an honest client."""
FLOOR = 1e-6
"""A probability that becomes a logit is no smaller."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Surroundings:
    """What an adversary client may look at beside its own honest upload.

    Attributes:
        rows: int64 ``[asked]``, ascending; the proxy rows that this round asks about.
        n_classes: of the task.
        consensus: the newest consensus, None in round 1.
        earlier: its own first honest upload, None before there is one. Only adversaries that
            ``remembers`` have it.
        row_temperatures: the least and largest temperature it may tell row by row, where the
            scenario's protector tells one; else None.
    """

    rows: Tensor
    n_classes: int
    consensus: Consensus | None = None
    earlier: Knowledge | None = None
    row_temperatures: tuple[float, float] | None = None


class AdversaryClient(ABC):
    """One way to be dishonest.

    Attributes:
        colludes: all adversaries of a run draw from one stream, the same in every round.
        remembers: it needs its first upload again.
        clients: how many or which clients are adversaries.
        strength: share of the rows (of the labels, where those are poisoned) that is poisoned.
    """

    colludes: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    clients: Clients
    strength: Strength

    def poison_labels(self, labels: Tensor, *, n_classes: int, rng: torch.Generator) -> Tensor:
        """Return the labels it trains on instead of its own, int64 of the same shape."""
        return labels

    @abstractmethod
    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Return what it sends in place of its honest ``upload``, at full strength.

        Both are what leaves a client without any protector, in the space that the server reads.
        """


adversaries = Registry("adversary client", AdversaryClient, package="fedkd.adversaries")


def members(attack: AdversaryClient | None, *, n_clients: int) -> frozenset[int]:
    """Return the ids of the adversaries: the last ones, so that honest clients keep theirs."""
    if attack is None:
        return frozenset()
    if isinstance(attack.clients, tuple):
        return frozenset(attack.clients)
    return frozenset(range(n_clients - attack.clients, n_clients))


def check_devices(attack: AdversaryClient | None) -> None:
    """Refuse clients on devices that are to attack: they would send what no protector has seen.

    Raises:
        ConfigError: there is an attack.
    """
    if attack is not None:
        raise ConfigError(
            f"attack: {describe(attack)['name']!r} makes clients of a simulation lie; a client on "
            "a device takes no part, use attack=null"
        )


def unfit(attack: AdversaryClient | None, *, n_clients: int, message: MessageKind) -> Iterator[str]:
    """Yield why a scenario cannot be attacked like that, each with its remedy."""
    if attack is None:
        return
    asked = attack.clients
    if isinstance(asked, tuple):
        if len(set(asked)) < len(asked):
            yield f"attack.clients: {list(asked)} names a client twice; name each once"
        if asked and max(asked) >= n_clients:
            yield (
                f"attack.clients: {list(asked)} names client {max(asked)}, but clients="
                f"{n_clients} has ids up to {n_clients - 1}"
            )
    count = len(asked) if isinstance(asked, tuple) else asked
    if count >= n_clients:
        yield (
            f"attack.clients: {count} of clients={n_clients} leaves nobody honest; give fewer "
            "than there are"
        )
    if message is not MessageKind.KNOWLEDGE:
        yield "attack: this method sends no knowledge to forge; use one that does, or attack=null"


def stream(
    attack: AdversaryClient, seed: int, purpose: str, *, round: int, client: int
) -> torch.Generator:
    """Return the random numbers of an adversary: its own each round, or those of all colluders."""
    if attack.colludes:
        return torch_stream(seed, f"attack {purpose}")
    return torch_stream(seed, f"attack {purpose}", round=round, client=client)


def poisoned(
    attack: AdversaryClient,
    upload: Knowledge,
    surroundings: Surroundings,
    *,
    rng: torch.Generator,
) -> Knowledge:
    """Return what leaves an adversary in place of ``upload``; with strength 0, ``upload`` itself.

    A temperature that has to be told row by row is the least that is allowed.
    """
    sent = upload
    if attack.strength > 0:
        sent = attack.forge(upload, surroundings, rng=rng)
    if 0 < attack.strength < 1:
        sent = _in_part(upload, sent, attack.strength, rng=rng)
    if surroundings.row_temperatures is None or sent.row_temperatures is not None:
        return sent
    least = torch.full_like(sent.weights, surroundings.row_temperatures[0])
    return replace(sent, row_temperatures=least)


def poisoned_labels(
    attack: AdversaryClient, labels: Tensor, *, n_classes: int, rng: torch.Generator
) -> Tensor:
    """Return the labels that an adversary trains on; with strength 0, ``labels`` itself."""
    if attack.strength == 0:
        return labels
    return attack.poison_labels(labels, n_classes=n_classes, rng=rng)


def probabilities(scores: Tensor, space: Space) -> Tensor:
    """Return scores of either space as probabilities, ``[n, classes]``."""
    return scores.softmax(dim=1) if space is Space.LOGITS else scores.float()


def saying(upload: Knowledge, probs: Tensor, *, rows: Tensor | None = None) -> Knowledge:
    """Return an upload like ``upload``, of full weight, that says ``probs`` instead.

    Args:
        upload: whose space and temperature it has.
        probs: float32 ``[n, classes]``.
        rows: what it speaks about; None for the rows of ``upload``.
    """
    logits = upload.space is Space.LOGITS
    return Knowledge(
        rows=upload.rows if rows is None else rows,
        scores=probs.clamp(min=FLOOR).log() if logits else probs,
        weights=probs.new_ones(len(probs)),
        space=upload.space,
        temperature=upload.temperature,
    )


def believed(upload: Knowledge, consensus: Consensus | None) -> Tensor:
    """Return the last consensus about the rows of ``upload``, as probabilities ``[n, classes]``.

    Where there is none, what ``upload`` itself says.
    """
    own = probabilities(upload.scores, upload.space)
    if consensus is None or len(consensus) == 0:
        return own
    rows, scores = consensus.rows.to(own.device), consensus.scores.to(own.device)
    place = torch.searchsorted(rows, upload.rows).clamp(max=len(rows) - 1)
    covered = rows[place] == upload.rows
    told = probabilities(scores[place], consensus.space)
    return torch.where(covered[:, None], told, own)


def one_hot(classes: Tensor, *, n_classes: int) -> Tensor:
    """Return float32 probabilities ``[n, classes]`` that are sure of one class each."""
    return torch.nn.functional.one_hot(classes, n_classes).float()


def _in_part(
    honest: Knowledge, forged: Knowledge, share: float, *, rng: torch.Generator
) -> Knowledge:
    """Return the forged version of some rows, each with probability ``share``, else the honest."""
    drawn = torch.rand(len(forged), generator=rng).to(forged.rows.device) < share
    lies = _some(forged, drawn)
    truth = _some(honest, ~torch.isin(honest.rows, lies.rows))
    rows = torch.cat([truth.rows, lies.rows])
    order = rows.argsort()
    return Knowledge(
        rows=rows[order],
        scores=torch.cat([truth.scores, lies.scores])[order],
        weights=torch.cat([truth.weights, lies.weights])[order],
        space=honest.space,
        temperature=honest.temperature,
    )


def _some(knowledge: Knowledge, chosen: Tensor) -> Knowledge:
    return replace(
        knowledge,
        rows=knowledge.rows[chosen],
        scores=knowledge.scores[chosen],
        weights=knowledge.weights[chosen],
    )
