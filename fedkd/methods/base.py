"""What a method is: both sides of one way to learn together, written against a ``Learner``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.streaming import sums_from_tensors, sums_to_tensors
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
        """Return the clients' parameters, weighted by their example counts; not to be changed."""
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

    @property
    def folds(self) -> bool:
        """Whether a state is sums of a fixed size, so that it is worth more than the uploads."""
        return False

    @abstractmethod
    def accumulate(self, state: Any, upload: Upload, *, n_rows: int) -> Any:
        """Return the state with one upload more; ``state`` is used up, None begins one."""

    def fold(self, state: Any, uploads: Sequence[Upload], *, n_rows: int) -> Any:
        """Return the state with some uploads more, in their order; bit by bit the same."""
        for upload in uploads:
            state = self.accumulate(state, upload, n_rows=n_rows)
        return state

    @abstractmethod
    def merge(self, left: Any, right: Any) -> Any:
        """Return the state that holds the uploads of both; ``left`` is used up."""

    @abstractmethod
    def finish(self, state: Any, *, rng: torch.Generator) -> Broadcast | None:
        """Turn a round's uploads into what the next round starts from.

        ``state`` holds them; it is None when no sound upload came.
        """

    def to_tensors(self, state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a state as named tensors and facts for JSON, where the method ``folds``.

        They are sums: a number of an update that is not finite shows in them.
        """
        raise NotImplementedError("this method keeps uploads")

    def from_tensors(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Any:
        """Return what :meth:`to_tensors` was given."""
        raise NotImplementedError("this method keeps uploads")

    def server_round(
        self, uploads: Sequence[Upload], *, n_rows: int, rng: torch.Generator
    ) -> Broadcast | None:
        """Fold uploads, ordered by client, and finish."""
        return self.finish(self.fold(None, uploads, n_rows=n_rows), rng=rng)

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

    @property
    def folds(self) -> bool:
        """Linear aggregators sum."""
        return self.aggregator.linear

    def accumulate(self, state: Any, upload: Upload, *, n_rows: int) -> Any:
        """Add one client's knowledge."""
        if not isinstance(upload, Knowledge):
            raise TypeError("this method aggregates knowledge")
        return self.aggregator.accumulate(state, upload, n_rows=n_rows)

    def merge(self, left: Any, right: Any) -> Any:
        """Add two states."""
        return self.aggregator.merge(left, right)

    def finish(self, state: Any, *, rng: torch.Generator) -> Broadcast | None:
        """Aggregate per row over the clients that kept it."""
        if state is None:
            raise ValueError("no uploads to aggregate")
        return self.aggregator.finish(state, rng=rng)

    def to_tensors(self, state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sums are tensors."""
        return sums_to_tensors(state)

    def from_tensors(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Any:
        """Return the sums."""
        return sums_from_tensors(tensors, facts)

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

    def accumulate(self, state: Any, upload: Upload, *, n_rows: int) -> Any:
        """There is nothing to aggregate."""
        raise TypeError("this method aggregates nothing")

    def merge(self, left: Any, right: Any) -> Any:
        """There is nothing to aggregate."""
        raise TypeError("this method aggregates nothing")

    def finish(self, state: Any, *, rng: torch.Generator) -> Broadcast | None:
        """There is nothing to aggregate."""
        return None

    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """There is nothing to take in."""
