"""FedAvg: clients send weights, the server averages them.

McMahan et al.: Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.methods.base import Learner, MessageKind, Method, methods
from fedkd.types import Broadcast, Update, Upload


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

    def server_round(
        self, uploads: Sequence[Upload], *, n_rows: int, rng: torch.Generator
    ) -> Broadcast | None:
        """Average the parameters, weighted by example counts, in float64."""
        updates = [upload for upload in uploads if isinstance(upload, Update)]
        total = sum(update.weight for update in updates)
        if not updates or total <= 0:
            raise ValueError(f"cannot average {len(updates)} updates of total weight {total}")
        names = updates[0].arrays
        mean: dict[str, Tensor] = {}
        for name in names:
            weighted = torch.stack([u.arrays[name].double() * u.weight for u in updates])
            mean[name] = (weighted.sum(dim=0) / total).float()
        return Update(arrays=mean)

    def absorb(self, learner: Learner, clients: Sequence[int], incoming: Broadcast | None) -> None:
        """Overwrite the clients' parameters."""
        if isinstance(incoming, Update):
            learner.load_parameters(clients, incoming)
