"""FedAvg: clients send weights, the server averages them.

McMahan et al.: Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedkd.flat import FlatArrays, Layout
from fedkd.methods.base import Learner, MessageKind, Method, methods
from fedkd.types import Broadcast, Update, Upload

LANE = 16
"""Updates that are added up in float32 before they go into the float64 sums: such a sum is off by
at most 15 half units in its last place, and no sum by more, however many updates there are."""


@dataclass(eq=False, kw_only=True)
class Total:
    """Weighted sums over updates, and the sum of their weights.

    Attributes:
        layout: of the parameters in the vectors.
        weight: of all updates together.
        lane: float32 ``[size]``, sums of the newest updates.
        waiting: how many are in the lane.
        sums: float64 ``[size]``, over the others; None for none.
    """

    layout: Layout
    weight: float = 0.0
    lane: Tensor | None = None
    waiting: int = 0
    sums: Tensor | None = None

    def add(self, vector: Tensor, weight: float) -> None:
        """Add parameters, float32 ``[size]``, so many times."""
        if self.waiting == LANE:
            self.settled()
        if self.lane is None:
            self.lane = torch.empty_like(vector)
        if self.waiting:
            self.lane.add_(vector, alpha=weight)
        else:
            torch.mul(vector, weight, out=self.lane)
        self.waiting += 1
        self.weight += weight

    def settled(self) -> Tensor:
        """Return the sums with nothing left in the lane; in place, and any number of times."""
        if self.lane is not None and self.waiting:
            self.sums = self.lane.double() if self.sums is None else self.sums.add_(self.lane)
            self.waiting = 0
        if self.sums is None:
            raise ValueError("a total over no updates")
        return self.sums


@methods.register("fedavg")
@dataclass(frozen=True)
class FedAvg(Method):
    """FedAvg: the parameter-averaging baseline; all clients need the same architecture.

    Differences from the paper: clients keep their optimiser's state (Adam's moments) from round
    to round; the paper's clients run plain SGD.
    """

    message: ClassVar[MessageKind] = MessageKind.UPDATE

    def opening(self, model: nn.Module) -> Broadcast | None:
        """Send the common starting point."""
        return Update(arrays=FlatArrays.of(model.state_dict()))

    def client_round(
        self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None
    ) -> list[Upload | None]:
        """Start from the global parameters, train, send the result."""
        self.absorb(learner, clients, incoming)
        learner.fit(clients, None, None)
        return list(learner.parameters(clients))

    @property
    def folds(self) -> bool:
        """Parameters add up."""
        return True

    def accumulate(self, state: Any, upload: Upload, *, n_rows: int) -> Any:
        """Add parameters, weighted by example counts."""
        if not isinstance(upload, Update):
            raise TypeError("this method averages parameters")
        flat = FlatArrays.of(upload.arrays, None if state is None else state.layout)
        total = Total(layout=flat.layout) if state is None else state
        total.add(flat.vector, upload.weight)
        return total

    def merge(self, left: Any, right: Any) -> Any:
        """Add the right total to the left one, in place."""
        left.settled().add_(right.settled())
        left.weight += right.weight
        return left

    def finish(self, state: Any, *, rng: torch.Generator) -> Broadcast | None:
        """Divide by the weight."""
        if state is None or state.weight <= 0:
            weight = 0 if state is None else state.weight
            raise ValueError(f"cannot average updates of total weight {weight}")
        mean = (state.settled() / state.weight).float()
        return Update(arrays=FlatArrays(mean, state.layout))

    def to_tensors(self, state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the sums, and beside them their weight and what is what."""
        named = [(part.name, part.shape) for part in state.layout.parts]
        return {"sums": state.settled()}, {"weight": state.weight, "named": named}

    def from_tensors(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Any:
        """Return the total."""
        layout = Layout.of((name, shape) for name, shape in facts["named"])
        return Total(layout=layout, weight=float(facts["weight"]), sums=tensors["sums"])

    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """Overwrite the clients' parameters."""
        if isinstance(incoming, Update):
            learner.load_parameters(clients, incoming)
