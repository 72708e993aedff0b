"""Takes proxy rows that a client is sure about for rows it trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.matching import alike, matched
from fedkd.audit.fair import MATCHED, judged
from fedkd.audit.findings import Result
from fedkd.audit.scoring import log_probabilities
from fedkd.audit.suspects import uploads_by_client, why_not
from fedkd.audit.views import Adversary, Channel, NotSeen, View
from fedkd.training.steps import Examples
from fedkd.types import Knowledge, ProxySet, ProxySource


@attacks.register("confidence_on_proxy")
@dataclass(frozen=True)
class ConfidenceOnProxy(Attack):
    """Reads the uploaded scores themselves: the largest probability of each row.

    The server knows who gave which row of a pooled proxy set. The figure is what it could tell
    from the scores had it not been told: what mixing the rows would leave.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Clients must have given proxy rows; rows must be about whole examples."""
        if bench.scenario.proxy.source is not ProxySource.POOLED:
            return "no client gave any proxy row (proxy=external)"
        if bench.task.rows_per_input > 1:
            return "a row is one position of a sequence, not an example"
        return why_not(bench, truth, canaries=False, knowledge=True)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Compare each client's own rows with other clients' rows of the same classes."""
        sent, proxy = uploads_by_client(view, bench), view.proxy()
        if not sent:
            raise NotSeen("no upload was kept")
        sides = {
            client: self._scores(truth, sent[client][-1], proxy, client=client, rng=rng)
            for client in sorted(sent)
        }
        found = alike(sides, rng=rng).values()
        members, others = (
            np.concatenate([np.zeros(0), *(pair[side].inputs.numpy() for pair in found)])
            for side in (0, 1)
        )
        return judged(
            members,
            others,
            delta=bench.scenario.privacy.delta,
            note=f"{MATCHED} Non-members are rows that other clients gave and trained on; one row "
            "can serve for several clients. The server is told who gave which row anyway.",
            rng=rng,
        )

    def _scores(
        self,
        truth: Truth,
        upload: Knowledge,
        proxy: ProxySet,
        *,
        client: int,
        rng: np.random.Generator,
    ) -> tuple[Examples, Examples]:
        """Return a client's own rows and others', with scores in place of inputs."""
        if proxy.owner is None:
            raise NotSeen("the owners of the proxy rows were not kept")
        rows = upload.rows.cpu().numpy()
        ids = proxy.ids.cpu().numpy()[rows]
        labels = truth.planted.arrays.train_labels
        natural = ids < len(labels) - len(truth.planted.number)  # canaries come last
        own = proxy.owner.cpu().numpy()[rows] == client
        scores = log_probabilities(upload).max(axis=1)
        sides = (
            Examples(
                inputs=torch.from_numpy(scores[side & natural]),
                labels=torch.from_numpy(labels[ids[side & natural]]),
            )
            for side in (own, ~own)
        )
        return matched(*sides, rng=rng)
