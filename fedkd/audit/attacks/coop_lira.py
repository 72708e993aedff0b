"""Membership of a client's records, with the other clients' uploads in place of reference models.

After the co-op LiRA of Shi, Ouyang & Wang 2025, https://arxiv.org/abs/2502.08001 (only its abstract
could be read). Differences: a score is the copy's confidence gap in deviations from the other
copies' gaps, and their spread is pooled over all examples of a client when there are fewer than
eight others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.distillation_lira import FEWEST_FOR_OWN_SPREAD, joined, standardized
from fedkd.audit.attacks.surrogates import (
    drawn_seed,
    lesson_from,
    newest_uploads,
    some_clients,
    speaks_about_classes,
)
from fedkd.audit.fair import AT_RISK, MATCHED, judged, suspects_by_client
from fedkd.audit.findings import Result
from fedkd.audit.views import Adversary, Channel, View


@attacks.register("coop_lira")
@dataclass(frozen=True)
class CoopLira(Attack):
    """A copy of each client's model; the copies of the others say how hard an example is.

    Attributes:
        copies: clients that are copied, drawn at random, three or more; all of them are attacked.
        passes: passes of a copy over the rows it learns from.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    copies: Annotated[int, Ge(3)] = 10
    passes: Annotated[int, Ge(1)] = 8

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods without knowledge, sequences, and fewer than three clients."""
        if len(truth.members) < 3:
            return f"{len(truth.members)} clients: the others' spread takes three or more"
        return speaks_about_classes(bench)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Attack every client that was copied and pool their scores."""
        uploads, proxy = newest_uploads(view, n_classes=bench.task.n_classes), view.proxy()
        chosen = some_clients([c for c in uploads if c in truth.members], self.copies, rng=rng)
        if len(chosen) < 3:
            note = f"{len(chosen)} clients answered; the others' spread takes three or more."
            return Result(at_risk=AT_RISK, note=note)
        lots = ((lesson_from(uploads[c], proxy, bench), drawn_seed(rng)) for c in chosen)
        copies = dict(zip(chosen, bench.distil_many(lots, self.passes), strict=True))
        scores = [(np.zeros(0), np.zeros(0))]
        for client, sides in suspects_by_client(truth, chosen, rng=rng).items():
            if min(map(len, sides)):
                others = [copies[other] for other in chosen if other != client]
                scores.append(standardized(copies[client], others, sides, task=bench.task))
        note, delta = self._note(len(chosen), len(uploads)), bench.scenario.privacy.delta
        return judged(*joined(scores), delta=delta, note=note, rng=rng)

    def _note(self, n_copies: int, n_clients: int) -> str:
        spread = "each example's own"
        if n_copies - 1 < FEWEST_FOR_OWN_SPREAD:
            spread = f"pooled, for {n_copies - 1} other copies are too few for one an example"
        return f"{MATCHED} Copies of {n_copies} of {n_clients} clients; the spread is {spread}."
