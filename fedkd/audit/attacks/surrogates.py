"""What attacks on uploads share: reading an upload, and copying a client's model from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from fedkd.aggregators.mean import Mean
from fedkd.audit.attacks.base import Bench, Truth
from fedkd.audit.findings import Figure
from fedkd.audit.intervals import share_interval
from fedkd.audit.views import View
from fedkd.methods.base import CoDistillation, MessageKind
from fedkd.protectors.base import dense
from fedkd.scenario import Scenario
from fedkd.training.steps import Lesson, lesson_on
from fedkd.types import LOGIT_LIMIT, Consensus, Knowledge, ProxySet, Space

TINY = 1e-12
EXACT_FLIPS = 12
"""Up to so many pairs all signs are tried, beyond that so many are drawn:"""
FLIPS = 4096


def speaks_about_classes(bench: Bench) -> str:
    """Return why an attack on single labels cannot run, or an empty text."""
    if not isinstance(bench.scenario.method, CoDistillation):
        return "the method exchanges no knowledge"
    if bench.task.rows_per_input != 1:
        return "inputs are sequences: without classes, members cannot be matched to non-members"
    return ""


def method_of(scenario: Scenario) -> CoDistillation:
    """Return the scenario's method; TypeError when it exchanges no knowledge."""
    if not isinstance(scenario.method, CoDistillation):
        raise TypeError("the method exchanges no knowledge; ask applies() first")
    return scenario.method


def newest_uploads(view: View, *, n_classes: int) -> dict[int, Knowledge]:
    """Return each client's newest upload that was kept, by client, ascending.

    Finite, about all classes, and probabilities that sum to one, whatever was sent (masked words
    are neither).
    """
    newest: dict[int, Knowledge] = {}
    for n in view.rounds():
        newest |= {client: sound(sent, n_classes) for client, sent in view.uploads(n).items()}
    return {client: newest[client] for client in sorted(newest) if len(newest[client])}


def sound(sent: Knowledge, n_classes: int) -> Knowledge:
    """Return an upload that can be learnt from, whatever was sent."""
    whole = dense(sent, n_classes=n_classes)
    limit = torch.finfo(torch.float32).max / n_classes
    scores = whole.scores.nan_to_num(0.0, posinf=limit, neginf=-limit)
    if whole.space is Space.LOGITS:
        return replace(whole, scores=scores.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))
    scores = scores.clamp(0, limit)
    total = scores.sum(dim=1, keepdim=True)
    scores = torch.where(total > 0, scores / total.clamp(min=TINY), 1 / n_classes)
    return replace(whole, scores=scores)


def untempered(knowledge: Knowledge) -> Tensor:
    """Return probabilities at temperature 1, float64 ``[n, classes]``.

    A told temperature hides nothing: softmax(z / T) to the power T is softmax(z), up to scale.
    """
    scores = knowledge.scores.double()
    if knowledge.space is Space.LOGITS:
        return torch.softmax(scores, dim=1)
    told = knowledge.row_temperatures
    temperatures = knowledge.temperature if told is None else told.double()[:, None]
    return torch.softmax(temperatures * scores.clamp(min=TINY).log(), dim=1)


def some_clients(clients: Sequence[int], most: int, *, rng: np.random.Generator) -> list[int]:
    """Return at most so many clients, drawn at random, ascending."""
    return sorted(rng.permutation(np.asarray(clients, dtype=np.int64))[:most].tolist())


def listed(clients: Sequence[int]) -> str:
    """Return for example ``"clients 0, 3"``, for a note."""
    return f"client{'s' * (len(clients) != 1)} {', '.join(map(str, clients))}"


def degenerate(n_clients: int) -> str:
    """Return a sentence about federations of two, or an empty text."""
    if n_clients != 2:
        return ""
    return (
        " With 2 clients each can subtract its own upload from the consensus and read the other's "
        "exactly: what the server finds here, the other client finds too."
    )


def merged(uploads: Sequence[Knowledge], weights: Sequence[float]) -> Consensus:
    """Return the weighted mean of one client's uploads of several rounds, row by row."""
    parts = [
        replace(upload, weights=torch.full_like(upload.weights, weight))
        for upload, weight in zip(uploads, weights, strict=True)
    ]
    last = int(max(int(upload.rows.max()) for upload in uploads))
    return Mean().aggregate(parts, n_rows=last + 1, rng=torch.Generator())


def lesson_from(upload: Knowledge | Consensus, proxy: ProxySet, bench: Bench) -> Lesson:
    """Return what a copy of the sender's model learns from."""
    teacher = Consensus(
        rows=upload.rows,
        scores=upload.scores,
        space=upload.space,
        temperature=upload.temperature,
        keepers=None,
        row_temperatures=upload.row_temperatures,
    )
    return lesson_on(
        teacher,
        proxy.inputs,
        distiller=method_of(bench.scenario).distiller,
        rows_per_input=proxy.rows_per_input,
    )


def drawn_seed(rng: np.random.Generator) -> int:
    """Return a seed for one training."""
    return int(rng.integers(2**31))


def divergence(true: NDArray[np.float64], guessed: NDArray[np.float64]) -> float:
    """Return KL(true || guessed) in nats; both ``[classes]``, and ``guessed`` has no zero."""
    held = true > 0
    return float((true[held] * np.log(true[held] / guessed[held])).sum())


def better_p(gains: NDArray[np.float64], *, rng: np.random.Generator) -> float:
    """Return the one-sided p-value that paired gains are no better than their negatives.

    Exact for up to 12 pairs, else over 4096 drawn sign patterns, the observed one among them.
    """
    n = len(gains)
    if n <= EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = rng.choice([-1, 1], size=(FLIPS, n))
        signs[0] = 1
    sums = signs @ gains
    return float((sums >= gains.sum() - 1e-9 * max(1.0, float(np.abs(gains).sum()))).mean())


def share_of(hits: NDArray[np.bool_], chance: NDArray[np.bool_], name: str) -> Figure:
    """Return the figure "share of hits", against the hits of a baseline on the same questions.

    p is McNemar's exact one: of the questions that only one of them gets right.
    """
    won, lost = int((hits & ~chance).sum()), int((~hits & chance).sum())
    p = binomtest(won, won + lost, alternative="greater").pvalue if won + lost else 1.0
    interval = share_interval(int(hits.sum()), len(hits))
    return Figure(
        name=name,
        value=float(hits.mean()),
        chance=float(chance.mean()),
        interval=(interval.low, interval.high),
        p=float(p),
    )


def cannot_compare(bench: Bench, truth: Truth) -> str:
    """Return why clients cannot be told apart by their uploads, or an empty text."""
    if bench.scenario.method.message is not MessageKind.KNOWLEDGE:
        return "the method exchanges no knowledge"
    if len(truth.label_counts) < 2:
        return "one client: there is no other to tell it from"
    return ""
