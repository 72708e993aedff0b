"""What the server remembers between two rounds, and how a checkpoint holds it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkd.transport.stored import Stored, content_of, stored
from fedkd.types import Broadcast, Consensus, Knowledge, ProxySet, Update, Upload
from fedkd_server.masked import MaskedSums
from fedkd_server.student import ServerStudent


@dataclass(eq=False, kw_only=True)
class Memory:
    """Everything that a round reads and a later one finds changed, but for the ledger.

    Attributes:
        proxy: the proxy set with all owners.
        has_proxy: clients that were sent it and answered.
        broadcast: what every client is sent next.
        student: the server's own model, where the scenario has one.
        masked: keys and members of masked sums, where the server sees those only.
        refused: clients whose own ledger refused; they are left out from then on.
        late: uploads that came too late, which may stand in for their clients in the next round.
    """

    proxy: ProxySet | None = None
    has_proxy: set[int] = field(default_factory=set[int])
    broadcast: Broadcast | None = None
    student: ServerStudent | None = None
    masked: MaskedSums | None = None
    refused: set[int] = field(default_factory=set[int])
    late: dict[int, Upload] = field(default_factory=dict[int, Upload])

    @property
    def n_rows(self) -> int:
        """Rows of the proxy set."""
        return 0 if self.proxy is None else self.proxy.n_rows

    def facts(self) -> dict[str, Any]:
        """Return what is no tensor."""
        return {
            "has_proxy": sorted(self.has_proxy),
            "refused": sorted(self.refused),
            "informed": [] if self.masked is None else sorted(self.masked.informed),
        }

    def parts(self) -> dict[str, Stored]:
        """Return the tensors."""
        parts: dict[str, Stored] = {}
        if self.broadcast is not None:
            parts["broadcast"] = stored(self.broadcast)
        if self.student is not None:
            parts["student"] = self.student.state()
        if self.masked is not None and self.masked.keys is not None:
            keys = self.masked.keys
            tensors = {"clients": keys.clients, "public": keys.public}
            parts["keys"] = Stored(tensors=tensors, facts={})
        parts |= {f"late.{client}": stored(upload) for client, upload in self.late.items()}
        return parts

    def recall(self, facts: Mapping[str, Any], parts: Mapping[str, Stored]) -> None:
        """Take back what :meth:`facts` and :meth:`parts` gave, once student and sums are there."""
        self.has_proxy, self.refused = set(facts["has_proxy"]), set(facts["refused"])
        if "broadcast" in parts:
            broadcast = content_of(parts["broadcast"])
            if isinstance(broadcast, Knowledge):
                raise ValueError("the checkpoint's broadcast is knowledge")
            self.broadcast = broadcast
        for name, part in parts.items():
            if name.startswith("late."):
                upload = content_of(part)
                if isinstance(upload, Consensus):
                    raise ValueError(f"the checkpoint's {name} is a consensus")
                self.late[int(name.removeprefix("late."))] = upload
        if self.student is not None:
            self.student.recall(parts["student"])
        if self.masked is not None:
            tensors = parts["keys"].tensors
            self.masked.recall(tensors["clients"], tensors["public"], facts["informed"])


def digest_of(broadcast: Broadcast | None) -> str:
    """Return the SHA-256 of a broadcast's numbers, 64 hex digits; empty for none."""
    if broadcast is None:
        return ""
    sha = hashlib.sha256()
    if isinstance(broadcast, Update):
        tensors = list(broadcast.arrays.values())
    else:
        tensors = [broadcast.rows, broadcast.scores]
        if broadcast.row_temperatures is not None:
            tensors.append(broadcast.row_temperatures)
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
