"""Ranks every canary's candidate secrets by what its holders uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.findings import Result, extraction
from fedkd.audit.scoring import Floats, Lineups, lineups
from fedkd.audit.suspects import losses_from, origin, unit_of, uploads_by_client, why_not
from fedkd.audit.views import Adversary, Channel, NotSeen, View
from fedkd.types import Knowledge


@attacks.register("canary_uploads")
@dataclass(frozen=True)
class CanaryUploads(Attack):
    """The server attacks each canary on the uploads of the clients that hold it.

    Attributes:
        exact_up_to: all secrets are ranked when there are at most so many.
        references: otherwise each canary is ranked among so many drawn ones.
        passes: of a client's surrogate over its last upload.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    exact_up_to: Annotated[int, Ge(2)] = 1000
    references: Annotated[int, Ge(1)] = 1000
    passes: Annotated[int, Ge(1)] = 20

    def applies(self, bench: Bench, truth: Truth) -> str:
        """There must be canaries and knowledge."""
        return why_not(bench, truth, canaries=True, knowledge=True)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Rank by the mean loss over a canary's holders."""
        sent = uploads_by_client(view, bench)
        canaries = truth.planted.canaries
        seen = tuple(c for c in canaries if any(client in sent for client in c.holders))
        if not seen:
            raise NotSeen("no upload of a client that holds a canary was kept")
        line = lineups(
            bench, seen, references=self.references, exact_up_to=self.exact_up_to, rng=rng
        )
        losses, direct = self._losses(view, bench, line, sent)
        lost = len(canaries) - len(seen)
        return Result(
            at_risk="canary secrets",
            extraction=extraction(
                line.exposures(losses),
                [c.insertions for c in seen],
                extrapolations=line.extrapolations(losses, rng=rng),
                delta=bench.scenario.privacy.delta,
                rng=rng,
                numbers=[c.number for c in seen],
            ),
            bound_unit=unit_of(seen),
            note=f"{line.note} {origin(bench, line.each, direct)}"
            + (f" {lost} canaries are left out: no holder's upload was kept." if lost else ""),
        )

    def _losses(
        self, view: View, bench: Bench, line: Lineups, sent: dict[int, list[Knowledge]]
    ) -> tuple[Floats, int]:
        proxy, read = view.proxy(), set[int]()
        found: dict[int, list[Floats]] = {}
        for client in sorted(sent):
            theirs = [one for one in line.each if client in one.canary.holders]
            if not theirs:
                continue
            losses, direct = losses_from(
                bench, theirs, sent[client], proxy, passes=self.passes, seed=client
            )
            for one, row, was_read in zip(theirs, losses, direct, strict=True):
                found.setdefault(one.canary.number, []).append(row)
                read |= {one.canary.number} if was_read else set()
        table = [np.mean(found[one.canary.number], axis=0) for one in line.each]
        return np.stack(table), len(read)
