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

from fedkd.methods.base import Learner, MessageKind, Method, methods
from fedkd.types import Broadcast, Update, Upload


@dataclass(eq=False, kw_only=True)
class Total:
    """Sums over updates: float64 arrays by name, and the sum of their weights."""

    arrays: dict[str, Tensor]
    weight: float


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
        return Update(arrays={name: p.detach() for name, p in model.state_dict().items()})

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
        """Add parameters, weighted by example counts, in float64."""
        if not isinstance(upload, Update):
            raise TypeError("this method averages parameters")
        if state is None:
            arrays = {name: value.double() * upload.weight for name, value in upload.arrays.items()}
            return Total(arrays=arrays, weight=upload.weight)
        for name, value in upload.arrays.items():
            state.arrays[name].add_(value.double(), alpha=upload.weight)
        state.weight += upload.weight
        return state

    def merge(self, left: Any, right: Any) -> Any:
        """Add two totals."""
        arrays = {name: value + right.arrays[name] for name, value in left.arrays.items()}
        return Total(arrays=arrays, weight=left.weight + right.weight)

    def finish(self, state: Any, *, rng: torch.Generator) -> Broadcast | None:
        """Divide by the weight."""
        if state is None or state.weight <= 0:
            weight = 0 if state is None else state.weight
            raise ValueError(f"cannot average updates of total weight {weight}")
        return Update(arrays={n: (v / state.weight).float() for n, v in state.arrays.items()})

    def to_tensors(self, state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the arrays, and the weight beside them."""
        return state.arrays, {"weight": state.weight, "names": list(state.arrays)}

    def from_tensors(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Any:
        """Return the total, its arrays in their order."""
        arrays = {name: tensors[name] for name in facts["names"]}
        return Total(arrays=arrays, weight=float(facts["weight"]))

    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """Overwrite the clients' parameters."""
        if isinstance(incoming, Update):
            learner.load_parameters(clients, incoming)
