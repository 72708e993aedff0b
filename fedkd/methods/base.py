"""What a method is: both sides of one way to learn together, written against a ``Learner``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from fedkd.aggregators.base import Aggregator
from fedkd.distillers.base import Distiller
from fedkd.filters.base import Filter
from fedkd.protectors.base import softened
from fedkd.registry import Registry
from fedkd.types import Broadcast, Consensus, Knowledge, Space, Update, Upload


class MessageKind(StrEnum):
    """What a method's clients send."""

    KNOWLEDGE = "knowledge"
    UPDATE = "update"
    NOTHING = "nothing"


class Holding(StrEnum):
    """Which examples a client of a method trains on."""

    OWN = "own"
    """Its own partition."""
    EVERYTHING = "everything"
    """All clients' examples in one place: a control, one client."""
    LABELLED_PROXY = "labelled_proxy"
    """The proxy set with its true labels: a control, one client."""


class Learner(Protocol):
    """All that a method may ask of clients; lists are parallel to ``clients``.

    Implementations hold the private data and the models. How clients are trained, one by one or
    in batches, is theirs to decide and does not change results.
    """

    def fit(
        self, clients: Sequence[int], teacher: Consensus | None, distiller: Distiller | None
    ) -> None:
        """Train each client for one round on its private examples and on the teacher."""
        ...

    def distill(self, clients: Sequence[int], teacher: Consensus, distiller: Distiller) -> None:
        """Take one pass over the teacher, without private examples."""
        ...

    def weigh(self, clients: Sequence[int], filter: Filter) -> list[Tensor]:
        """Return each client's filter weights, float32 ``[proxy]``; fitted once a proxy version."""
        ...

    def predict(self, clients: Sequence[int], rows: Sequence[Tensor]) -> list[Tensor]:
        """Return each client's logits for some proxy rows, float32 ``[n, classes]``."""
        ...

    def parameters(self, clients: Sequence[int]) -> list[Update]:
        """Return copies of the clients' parameters, weighted by their example counts."""
        ...

    def load_parameters(self, clients: Sequence[int], update: Update) -> None:
        """Overwrite the clients' parameters."""
        ...


class Method(ABC):
    """One way to learn together.

    Attributes:
        message: what clients send.
        oracle: True for controls that see what no deployment could.
        holding: which examples a client trains on.
    """

    message: ClassVar[MessageKind]
    oracle: ClassVar[bool] = False
    holding: ClassVar[Holding] = Holding.OWN

    def opening(self, model: nn.Module) -> Broadcast | None:
        """Return what the server sends in round 1, given a freshly initialized ``model``."""
        return None

    @abstractmethod
    def client_round(
        self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None
    ) -> list[Upload | None]:
        """Do one round on some clients; return what each has to say, before protection."""

    def encode(self, upload: Upload) -> Upload:
        """Turn a protected upload into the space the server reads."""
        return upload

    @abstractmethod
    def server_round(
        self, uploads: Sequence[Upload], *, n_rows: int, rng: torch.Generator
    ) -> Broadcast | None:
        """Turn a round's uploads, ordered by client, into what the next round starts from."""

    @abstractmethod
    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """Take in a broadcast without any private step (the closing pass of a run)."""


methods = Registry("method", Method, package="fedkd.methods")


class CoDistillation(Method):
    """The common shape: train, speak about the rows the filter kept, distil the consensus.

    Abstract: a method derives from it once, as a frozen dataclass that fixes the three parts.
    """

    message: ClassVar[MessageKind] = MessageKind.KNOWLEDGE
    filter: Filter
    aggregator: Aggregator
    distiller: Distiller

    def client_round(
        self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None
    ) -> list[Upload | None]:
        """Train with last round's consensus, then predict the kept rows only."""
        teacher = incoming if isinstance(incoming, Consensus) else None
        learner.fit(clients, teacher, self.distiller)
        weights = learner.weigh(clients, self.filter)
        kept = [torch.nonzero(weight > 0).flatten() for weight in weights]
        logits = learner.predict(clients, kept)
        return [
            Knowledge(rows=rows, scores=scores, weights=weight[rows], space=Space.LOGITS)
            for rows, scores, weight in zip(kept, logits, weights, strict=True)
        ]

    def encode(self, upload: Upload) -> Upload:
        """Soften logits when the distiller reads probabilities."""
        if not isinstance(upload, Knowledge) or upload.space is self.distiller.space:
            return upload
        if upload.space is Space.PROBS:
            raise ValueError("the distiller needs raw logits, but the protector made probabilities")
        return softened(upload, temperature=self.distiller.teacher_temperature)

    def server_round(
        self, uploads: Sequence[Upload], *, n_rows: int, rng: torch.Generator
    ) -> Broadcast | None:
        """Aggregate per row over the clients that kept it."""
        knowledge = [upload for upload in uploads if isinstance(upload, Knowledge)]
        return self.aggregator.aggregate(knowledge, n_rows=n_rows, rng=rng)

    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """Distil one pass."""
        if isinstance(incoming, Consensus):
            learner.distill(clients, incoming, self.distiller)


class Alone(Method):
    """The common shape of controls that do not talk: each client trains on what it holds.

    Abstract: a control derives from it once and says what its clients hold.
    """

    message: ClassVar[MessageKind] = MessageKind.NOTHING

    def client_round(
        self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None
    ) -> list[Upload | None]:
        """Train alone and send nothing."""
        learner.fit(clients, None, None)
        return [None for _ in clients]

    def server_round(
        self, uploads: Sequence[Upload], *, n_rows: int, rng: torch.Generator
    ) -> Broadcast | None:
        """There is nothing to aggregate."""
        return None

    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """There is nothing to take in."""
