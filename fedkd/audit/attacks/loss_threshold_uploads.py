"""Takes examples that a surrogate of a client's upload finds easy for the client's members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.surrogates import lesson_from, speaks_about_classes
from fedkd.audit.fair import MATCHED, judged, suspects_by_client
from fedkd.audit.findings import Result
from fedkd.audit.scoring import Floats, example_losses
from fedkd.audit.suspects import uploads_by_client
from fedkd.audit.views import Adversary, Channel, NotSeen, View


@attacks.register("loss_threshold_uploads")
@dataclass(frozen=True)
class LossThresholdUploads(Attack):
    """What uploads tell about examples that were never asked about.

    Attributes:
        passes: of a client's surrogate over its last upload.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    passes: Annotated[int, Ge(1)] = 20

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods without knowledge, and sequences.

        A client's texts differ from all others' by their author, which would pass for membership.
        """
        return speaks_about_classes(bench)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Distil a surrogate of each client; pool the scores of all."""
        sent, proxy = uploads_by_client(view, bench), view.proxy()
        if not sent:
            raise NotSeen("no upload was kept")
        found: tuple[list[Floats], list[Floats]] = ([np.zeros(0)], [np.zeros(0)])
        suspects = suspects_by_client(truth, sorted(sent), rng=rng)
        lots = ((lesson_from(sent[client][-1], proxy, bench), client) for client in suspects)
        surrogates = bench.distil_many(lots, self.passes)
        for sides, module in zip(suspects.values(), surrogates, strict=True):
            for scores, side in zip(found, sides, strict=True):
                scores.append(-example_losses(module, side, task=bench.task))
        return judged(
            np.concatenate(found[0]),
            np.concatenate(found[1]),
            delta=bench.scenario.privacy.delta,
            note=f"{MATCHED} Scores of {len(sent)} clients' surrogates are pooled.",
            rng=rng,
        )
