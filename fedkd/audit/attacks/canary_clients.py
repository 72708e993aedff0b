"""How well one client shows in the consensus: random canary clients in a replayed aggregation.

After Andrew et al. 2024, https://arxiv.org/abs/2302.03098, moved from parameter updates to answers
about proxy rows, and bounded as in one-run audits (Steinke et al. 2023,
https://arxiv.org/abs/2305.08846) instead of by a fitted Gaussian; beside it stands the bound by
f-DP of Mahloujifar et al. 2025, https://arxiv.org/abs/2410.22235. Differences: canary clients were
not part of the run. The auditor, who knows the aggregator, adds them to the recorded uploads and
aggregates once more, with the run's protector and noise. Each takes part with its own pattern or,
by a fair coin, with another one that nobody knows, so the bound is about replacing a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.surrogates import degenerate, drawn_seed, method_of, sound
from fedkd.audit.bounds import Relation
from fedkd.audit.findings import Figure, Result
from fedkd.audit.gaussian import one_run_bound_gaussian
from fedkd.audit.guesses import Guesses, guess_membership_split
from fedkd.audit.intervals import share_interval
from fedkd.audit.one_run import one_run_bound
from fedkd.audit.roc import auc
from fedkd.audit.views import Adversary, Channel, NotSeen, View
from fedkd.methods.base import CoDistillation
from fedkd.privacy.settings import ServerView
from fedkd.protectors.base import Context, dense
from fedkd.rng import torch_stream
from fedkd.scenario import Scenario
from fedkd.types import Consensus, Knowledge, ProxySet, Space

Floats = NDArray[np.float64]


@attacks.register("canary_clients")
@dataclass(frozen=True)
class CanaryClients(Attack):
    """Adds canary clients to the last round that was kept and looks for them in the outcome.

    A canary's pattern is one random class for each row; the statistic is the cosine between the
    pattern and the consensus, both centered in each row. For a pattern that took no part it is
    N(0, 1 / d), d = rows (classes - 1).

    Attributes:
        canaries: canary clients; the more, the higher the ceiling of the bound.
        loudness: logit of a row's class, against 0 for all others.
        numbers: scores of one canary at most; proxy inputs beyond are left out.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.CONSENSUS
    canaries: Annotated[int, Ge(8)] = 400
    loudness: Annotated[float, Gt(0)] = 100.0
    numbers: Annotated[int, Ge(1)] = 20_000

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods that aggregate no knowledge."""
        if isinstance(bench.scenario.method, CoDistillation):
            return ""
        return "the method exchanges no knowledge"

    def set_aside(self, bench: Bench) -> str:
        """It measures the aggregation, not what the run let out."""
        return "it was tried with clients that were not in the run"

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Replay the aggregation once and guess who took part from its outcome alone."""
        scenario, n_classes = bench.scenario, bench.task.n_classes
        proxy, rows = _some_inputs(view.proxy(), self.numbers // n_classes, rng=rng)
        companions = _companions(view, scenario, rows, n_classes=n_classes)
        shape = (self.canaries, 2, proxy.n_rows)
        patterns = torch.from_numpy(rng.integers(n_classes, size=shape))
        coins = rng.random(self.canaries) < 0.5
        noise = torch_stream(drawn_seed(rng), "canary clients")
        shown = patterns[torch.arange(self.canaries), torch.from_numpy(~coins).long()]
        canaries = [
            self._upload(pattern, scenario, proxy, n_classes=n_classes, noise=noise)
            for pattern in shown
        ]
        uploads = [*companions, *canaries]
        consensus = method_of(scenario).server_round(uploads, n_rows=proxy.n_rows, rng=noise)
        if not isinstance(consensus, Consensus) or not len(consensus):
            return Result(at_risk=AT_RISK, note="The replayed aggregation released no row.")
        scores = cosines(patterns[:, 0], consensus)
        guesses = replace(guess_membership_split(scores, coins, rng=rng), relation=Relation.REPLACE)
        return Result(
            at_risk=AT_RISK,
            figures=(
                *_figures(scores, coins, d=len(consensus) * (n_classes - 1)),
                _within_gaussians(guesses, delta=scenario.privacy.delta),
            ),
            bound=one_run_bound(guesses, delta=scenario.privacy.delta),
            bound_unit=UNIT,
            note=_note(scenario, len(companions), len(rows)),
        )

    def _upload(
        self,
        pattern: Tensor,
        scenario: Scenario,
        proxy: ProxySet,
        *,
        n_classes: int,
        noise: torch.Generator,
    ) -> Knowledge:
        """Return a canary client's upload: protected and encoded as any other client's."""
        method = method_of(scenario)
        logits = self.loudness * torch.nn.functional.one_hot(pattern, n_classes).float()
        said = Knowledge(
            rows=torch.arange(len(pattern)),
            scores=logits,
            weights=torch.ones(len(pattern)),
            space=Space.LOGITS,
        )
        context = Context(
            proxy=proxy,
            consensus=None,
            temperature=method.distiller.teacher_temperature,
            closeness=lambda: torch.zeros(len(pattern)),
        )
        sent = method.encode(scenario.protector.protect(said, context, rng=noise))
        if not isinstance(sent, Knowledge):
            raise TypeError(f"the method encodes knowledge as {type(sent).__name__}")
        return dense(sent, n_classes=n_classes)


AT_RISK = "whether one client's upload went into the consensus"
UNIT = "one client's upload of one round, replaced by another"


def _note(scenario: Scenario, n_companions: int, n_rows: int) -> str:
    others = f"beside {n_companions} recorded uploads"
    if scenario.server_view is ServerView.SUMS:
        others = f"beside {n_companions} copies of the consensus, for no upload was seen"
    return (
        f"Replayed aggregation, not the run itself: canary clients {others}, over {n_rows} rows, "
        "with the protector and noise of the scenario. One round; the ledger counts all. The "
        "statistic reads the replayed consensus only." + degenerate(scenario.clients)
    )


def _some_inputs(
    proxy: ProxySet, most_rows: int, *, rng: np.random.Generator
) -> tuple[ProxySet, Tensor]:
    """Return a proxy set of fewer inputs, and which of the old rows are the new ones."""
    n, each = len(proxy), proxy.rows_per_input
    at = torch.from_numpy(np.sort(rng.permutation(n)[: max(1, most_rows // each)]))
    part = replace(
        proxy,
        inputs=proxy.inputs[at],
        ids=proxy.ids[at],
        owner=None if proxy.owner is None else proxy.owner[at],
    )
    return part, (at[:, None] * each + torch.arange(each)).flatten()


def _companions(view: View, scenario: Scenario, rows: Tensor, *, n_classes: int) -> list[Knowledge]:
    """Return the other uploads of the replay, about ``rows`` renumbered from 0."""
    kept = view.rounds()
    if not kept:
        raise NotSeen("no round was kept; run again with transcript=last")
    if scenario.server_view is ServerView.SUMS:
        consensus = view.consensus(kept[-1])
        alike = Knowledge(
            rows=consensus.rows,
            scores=consensus.scores,
            weights=torch.ones(len(consensus)),
            space=consensus.space,
            temperature=consensus.temperature,
            row_temperatures=consensus.row_temperatures,
        )
        return _on([alike] * scenario.clients, rows)
    sent = view.uploads(kept[-1])
    return _on([sound(sent[client], n_classes) for client in sorted(sent)], rows)


def _on(uploads: Sequence[Knowledge], rows: Tensor) -> list[Knowledge]:
    found: list[Knowledge] = []
    for upload in uploads:
        here = torch.isin(upload.rows, rows)
        told = upload.row_temperatures
        found.append(
            replace(
                upload,
                rows=torch.searchsorted(rows, upload.rows[here]),
                scores=upload.scores[here],
                weights=upload.weights[here],
                row_temperatures=None if told is None else told[here],
                bits=None,
            )
        )
    return found


def cosines(patterns: Tensor, consensus: Consensus) -> Floats:
    """Return the cosine of each pattern with the consensus, ``[n]``, both centered in each row.

    Args:
        patterns: int64 ``[n, rows]``, one class a row.
        consensus: rows that it lacks count for nothing.
    """
    scores = consensus.scores.double()
    centered = scores - scores.mean(dim=1, keepdim=True)
    n_rows, n_classes = scores.shape
    agreed = torch.stack(
        [centered.gather(1, pattern[consensus.rows, None]).sum() for pattern in patterns]
    )
    length = float(centered.norm()) * (n_rows * (1 - 1 / n_classes)) ** 0.5
    return (agreed / max(length, 1e-12)).cpu().numpy()


def _figures(scores: Floats, coins: NDArray[np.bool_], *, d: int) -> tuple[Figure, ...]:
    ins, outs = scores[coins], scores[~coins]
    if not len(ins) or not len(outs):
        return ()
    told = auc(ins, outs)
    found = int((ins > ndtri(0.95) / d**0.5).sum())
    share = share_interval(found, len(ins))
    return (
        Figure(
            name="AUC of canary clients that took part",
            value=told.value,
            chance=0.5,
            interval=(told.interval.low, told.interval.high),
        ),
        Figure(
            name="share of canary clients found, at 5 % false alarms of the null N(0, 1/d)",
            value=found / len(ins),
            chance=0.05,
            interval=(share.low, share.high),
        ),
        Figure(
            name="mean cosine of canary clients with the consensus",
            value=float(ins.mean()),
            chance=0.0,
            p=float(ndtr(-ins.mean() * (d * len(ins)) ** 0.5)),
        ),
    )


def _within_gaussians(guesses: Guesses, *, delta: float) -> Figure:
    """Return the epsilon that the same guesses certify of a mechanism that is Gaussian-like."""
    return Figure(
        name=f"epsilon at least, by f-DP: if the noise is Gaussian-like, at delta {delta:g}",
        value=one_run_bound_gaussian(guesses, delta=delta).epsilon,
        chance=0.0,
    )
