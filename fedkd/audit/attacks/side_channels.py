"""What an upload tells without any of its scores: which rows, with what weight and temperature.

No attack of the literature is followed; tools audit none of these channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.label_distribution import mean_divergence, scored_guesses, too_few
from fedkd.audit.attacks.surrogates import cannot_compare, drawn_seed
from fedkd.audit.findings import Figure, LabelGuess, Result
from fedkd.audit.views import Adversary, Channel, View
from fedkd.training.steps import predict
from fedkd.types import ProxySet

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Shell:
    """An upload without its scores.

    Attributes:
        rows: int64 ``[n]``.
        weights: float64 ``[n]``.
        temperatures: float64 ``[n]``, told row by row, or None.
    """

    rows: NDArray[np.int64]
    weights: Floats
    temperatures: Floats | None


@attacks.register("side_channels")
@dataclass(frozen=True)
class SideChannels(Attack):
    """Guesses label distributions from masks, and ownership of rows from weights and temperatures.

    Proxy rows get a class from a model trained on public examples. A client's guess is the share
    of each class's rows that it answered, by weight.

    Attributes:
        passes: passes of the public model.
        smoothing: share of the mean over all clients in each guess.
        shuffles: of the guesses among clients, for p-values and for chance.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.SIDE
    passes: Annotated[int, Ge(1)] = 10
    smoothing: Annotated[float, Gt(0), Le(1)] = 0.02
    shuffles: Annotated[int, Ge(99)] = 1999

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods without uploads of knowledge, and fewer than two clients."""
        return cannot_compare(bench, truth)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Look at every client's newest upload from outside."""
        proxy, shells = view.proxy(), newest_shells(view)
        classes = _public_classes(proxy, bench, passes=self.passes, seed=drawn_seed(rng))
        labels: tuple[LabelGuess, ...] = ()
        figures: list[Figure] = []
        able = {c: s for c, s in shells.items() if truth.label_counts[c].sum() > 0}
        if bench.task.rows_per_input == 1 and len(able) > 1:
            guesses = {c: _coverage(shell, classes) for c, shell in able.items()}
            labels = scored_guesses(guesses, truth.label_counts, smoothing=self.smoothing)
            figures.append(mean_divergence("mean KL from masks alone, nats", labels, rng=rng))
            figures.append(majority_found(labels, shuffles=self.shuffles, rng=rng))
        owned = _owned(shells, proxy, classes.argmax(axis=1))
        figures += owned
        note = PRIOR + too_few(len(able)) if labels else ""
        note += OWNERS if owned else NO_OWNERS
        return Result(
            at_risk="label distribution of clients, and whose proxy rows are whose",
            labels=labels,
            figures=tuple(figures),
            note=note.strip(),
        )


PRIOR = "Chance is the mean guess over all clients, or the guesses shuffled among them."
OWNERS = (
    " Own rows are compared with rows of the same class, as a public model sees it; the server of "
    "a pooled proxy set is told who gave which row anyway."
)
NO_OWNERS = (
    " No row's owner could be told: rows have no owner, every client answered all its classes' "
    "rows alike, or none shares a class with another's rows."
)


def newest_shells(view: View) -> dict[int, Shell]:
    """Return each client's newest upload that was kept, without its scores."""
    newest: dict[int, Shell] = {}
    for n in view.rounds():
        for client, sent in view.uploads(n).items():
            told = sent.row_temperatures
            newest[client] = Shell(
                rows=sent.rows.cpu().numpy(),
                weights=sent.weights.double().cpu().numpy(),
                temperatures=None if told is None else told.double().cpu().numpy(),
            )
    return {client: newest[client] for client in sorted(newest)}


def _public_classes(proxy: ProxySet, bench: Bench, *, passes: int, seed: int) -> Floats:
    """Return a public model's probabilities of each proxy row, ``[rows, classes]``.

    A single class for all rows of sequences.
    """
    if bench.task.rows_per_input != 1:
        return np.ones((proxy.n_rows, 1))
    module = bench.train(bench.public, passes, seed)
    return torch.softmax(predict(module, proxy.inputs).double(), dim=1).cpu().numpy()


def _coverage(shell: Shell, classes: Floats) -> Floats:
    """Return how much of each class was answered, as shares; uniform for an empty upload."""
    answered = shell.weights @ classes[shell.rows]
    covered = answered / np.maximum(classes.sum(axis=0), 1e-9)
    if covered.sum() <= 0:
        return np.full(len(covered), 1 / len(covered))
    return covered / covered.sum()


def majority_found(
    labels: tuple[LabelGuess, ...], *, shuffles: int, rng: np.random.Generator
) -> Figure:
    """Return how often the guessed largest class is the largest one."""
    true = np.array([np.argmax(guess.true) for guess in labels])
    guessed = np.array([np.argmax(guess.guessed) for guess in labels])
    value = float((true == guessed).mean())
    orders = rng.permuted(np.tile(np.arange(len(true)), (shuffles, 1)), axis=1)
    shuffled = (true[None] == guessed[orders]).mean(axis=1)
    return Figure(
        name="share of clients whose largest class is guessed from masks alone",
        value=value,
        chance=float(shuffled.mean()),
        p=float((1 + (shuffled >= value - 1e-12).sum()) / (1 + shuffles)),
    )


def spread(rows: NDArray[np.int64], values: Floats, n_rows: int, *, absent: float) -> Floats:
    """Return values of some rows as values of all, ``[n_rows]``."""
    dense = np.full(n_rows, absent)
    dense[rows] = values
    return dense


def _owner(proxy: ProxySet) -> NDArray[np.int64] | None:
    if proxy.owner is None:
        return None
    return np.repeat(proxy.owner.cpu().numpy(), proxy.rows_per_input)


def _owned(shells: Mapping[int, Shell], proxy: ProxySet, strata: NDArray[np.int64]) -> list[Figure]:
    """Return what weights and told temperatures say about who gave which row."""
    n_rows, owner = len(strata), _owner(proxy)
    weights = {c: spread(s.rows, s.weights, n_rows, absent=0.0) for c, s in shells.items()}
    told = {
        c: spread(s.rows, s.temperatures, n_rows, absent=np.nan)
        for c, s in shells.items()
        if s.temperatures is not None
    }
    found = (
        owners_told("AUC of weights for a client's own proxy rows", weights, owner, strata),
        owners_told("AUC of told temperatures for own proxy rows", told, owner, strata),
    )
    return [figure for figure in found if figure is not None]


def owners_told(
    name: str,
    values: Mapping[int, Floats],
    owner: NDArray[np.int64] | None,
    strata: NDArray[np.int64],
) -> Figure | None:
    """Return the AUC, within rows of one class, for rows a client gave against rows others gave.

    Strata of one client and one class are added up as in the stratified rank-sum test of
    van Elteren 1960 without his weights; its p-value is normal, corrected for ties.

    Args:
        name: of the figure.
        values: by client, of all proxy rows, ``[rows]``; NaN where it told none.
        owner: who gave each row, ``[rows]``, or None.
        strata: the class of each row, ``[rows]``.
    """
    if owner is None:
        return None
    wins = pairs = variance = 0.0
    for client, every in values.items():
        for stratum in np.unique(strata):
            here = (strata == stratum) & ~np.isnan(every)
            found = _rank_sum(every[here], owner[here] == client)
            wins, pairs, variance = wins + found[0], pairs + found[1], variance + found[2]
    if not variance:
        return None
    p = float(ndtr(-(wins - pairs / 2) / np.sqrt(variance)))
    return Figure(name=name, value=wins / pairs, chance=0.5, p=p)


def _rank_sum(values: Floats, own: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return won pairs, pairs, and the variance of the won ones if ranks were random."""
    n, m = int(own.sum()), int((~own).sum())
    if not n or not m:
        return 0.0, 0.0, 0.0
    ranks = rankdata(values)
    _, ties = np.unique(values, return_counts=True)
    total = n + m
    spread = total + 1 - float((ties**3 - ties).sum()) / (total * max(1, total - 1))
    return float(ranks[own].sum()) - n * (n + 1) / 2, float(n * m), n * m / 12 * spread
