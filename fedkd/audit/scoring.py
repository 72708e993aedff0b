"""What attacks ask of a model: losses of examples and of candidate secrets, in batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkd.audit.attacks.base import Bench
from fedkd.audit.exposure import Exposures, exact_exposure, interpolated_exposure
from fedkd.audit.extrapolation import Extrapolation, extrapolated_exposure
from fedkd.canaries.base import Canary, Probes
from fedkd.data.federation import load
from fedkd.tasks import Task, as_rows
from fedkd.training.steps import Examples, predict
from fedkd.types import Consensus, Knowledge, Space

Floats = NDArray[np.float64]

CANDIDATES_AT_ONCE = 4096
"""Probes of one prediction: a bound on memory."""


def example_losses(module: nn.Module, examples: Examples, *, task: Task) -> Floats:
    """Return each example's loss in nats, ``[n]``; of a sequence, the mean over its positions."""
    return _row_losses(module, examples, task=task).mean(dim=1).numpy()


def example_logits(module: nn.Module, examples: Examples, *, task: Task) -> Floats:
    """Return ln p / (1 - p) of the true label, ``[n]``; of a sequence, the mean over positions.

    LiRA's scale: nearly normal over models, where losses are not.
    """
    log_p = -_row_losses(module, examples, task=task)
    rest = torch.log(-torch.expm1(log_p.clamp(max=-1e-12)))
    return (log_p - rest).mean(dim=1).numpy()


def _row_losses(module: nn.Module, examples: Examples, *, task: Task) -> Tensor:
    logits = as_rows(predict(module, examples.inputs)).double()
    losses = task.loss(logits, examples.labels.flatten())
    return losses.view(len(examples), task.rows_per_input)


def some(examples: Examples, rows: NDArray[np.int64]) -> Examples:
    """Return the examples at ``rows``."""
    at = torch.from_numpy(rows)
    return Examples(inputs=examples.inputs[at], labels=examples.labels[at])


def pooled(parts: Mapping[int, Examples]) -> Examples:
    """Return all clients' examples, client by client in ascending order."""
    ordered = [parts[client] for client in sorted(parts)]
    return Examples(
        inputs=torch.cat([part.inputs for part in ordered]),
        labels=torch.cat([part.labels for part in ordered]),
    )


def probe_losses(module: nn.Module, probes: Probes, *, task: Task) -> Floats:
    """Return each candidate's loss, ``[k]``: the sum over the positions where it is predicted."""
    found: list[Tensor] = []
    for start in range(0, len(probes.labels), CANDIDATES_AT_ONCE):
        part = slice(start, start + CANDIDATES_AT_ONCE)
        examples = Examples(
            inputs=torch.from_numpy(probes.inputs[part]),
            labels=torch.from_numpy(probes.labels[part]),
        )
        losses = _row_losses(module, examples, task=task)
        scored = torch.from_numpy(probes.scored[part]).view(len(losses), -1)
        found.append((losses * scored).sum(dim=1))
    return torch.cat(found).numpy()


@dataclass(frozen=True, eq=False, kw_only=True)
class Lineup:
    """One canary among the secrets it is ranked with.

    Attributes:
        canary: the suspect.
        probes: of all secrets, the order telling nothing about which one is true.
        secrets: int64 ``[k]``, the candidates in that order.
        own: which of them is true; for scoring only.
    """

    canary: Canary
    probes: Probes
    secrets: NDArray[np.int64]
    own: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Lineups:
    """All canaries' lineups.

    Attributes:
        each: in order of the canaries.
        exact: every possible secret is in them, once; otherwise each canary's others are its own
            uniform draw, with replacement, as its secret was drawn.
        n_secrets: that there are.
    """

    each: tuple[Lineup, ...]
    exact: bool
    n_secrets: int

    @property
    def note(self) -> str:
        """What the ranks are among, in one sentence."""
        k = len(self.each[0].probes.labels)
        return f"All {k} secrets are ranked." if self.exact else f"Ranked among {k} random secrets."

    def exposures(self, losses: Floats) -> Exposures:
        """Return the exposures from candidate losses ``[n, k]``."""
        own = np.array([lineup.own for lineup in self.each])
        if self.exact:
            return exact_exposure(losses, own)
        rows = np.arange(len(own))
        others = np.ones(losses.shape, dtype=bool)
        others[rows, own] = False
        return interpolated_exposure(losses[rows, own], losses[others].reshape(len(own), -1))

    def extrapolations(
        self, losses: Floats, *, rng: np.random.Generator
    ) -> tuple[Extrapolation | None, ...] | None:
        """Return exposures beyond the cap from losses ``[n, k]``; None where ranks are exact.

        Only of canaries at the cap, that no other secret beats or ties with: below it the rank is
        an estimate already. Copies of a canary's own secret among its references are left out.
        ``rng`` is not advanced, so that all other figures are the same with and without.
        """
        if self.exact:
            return None
        halves, bits = rng.spawn(1)[0], math.log2(self.n_secrets)
        found: list[Extrapolation | None] = []
        for one, row in zip(self.each, losses, strict=True):
            own, others = float(row[one.own]), row[one.secrets != one.canary.secret]
            at_cap = len(others) > 0 and own < others.min()
            found.append(
                extrapolated_exposure(own, others, secret_bits=bits, rng=halves) if at_cap else None
            )
        return tuple(found)


def lineups(
    bench: Bench,
    canaries: tuple[Canary, ...],
    *,
    references: int,
    exact_up_to: int,
    rng: np.random.Generator,
) -> Lineups:
    """Return who is ranked among whom.

    Args:
        bench: the canaries' family and data set are public.
        canaries: to rank.
        references: other secrets drawn for each canary where there are too many for all.
        exact_up_to: with at most so many possible secrets all are ranked.
        rng: draws the references.
    """
    planted = bench.scenario.canaries
    if planted is None:
        raise ValueError("the scenario plants no canaries; check before ranking any")
    arrays = load(bench.scenario.data)  # probes are about the rows without canaries
    n_secrets = planted.family.n_secrets(arrays)
    exact = n_secrets <= exact_up_to
    each: list[Lineup] = []
    for canary in canaries:
        secrets, own = np.arange(n_secrets), canary.secret
        if not exact:
            secrets, own = (
                rng.integers(n_secrets, size=references + 1),
                int(rng.integers(references + 1)),
            )
            secrets[own] = canary.secret
        probes = planted.family.probes(arrays, canary, secrets)
        each.append(Lineup(canary=canary, probes=probes, secrets=secrets, own=own))
    return Lineups(each=tuple(each), exact=exact, n_secrets=n_secrets)


def log_probabilities(sent: Knowledge | Consensus) -> Floats:
    """Return ln p of every class of every row, ``[m, classes]``, at the temperature sent."""
    scores = sent.scores.double()
    if sent.space is Space.LOGITS:
        return torch.log_softmax(scores, dim=1).numpy()
    return torch.log(scores.clamp(min=1e-12)).numpy()
