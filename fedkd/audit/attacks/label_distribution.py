"""Guesses each client's label distribution from the mean of the answers it uploads.

After the label distribution inference of Shi, Ouyang & Wang 2025,
https://arxiv.org/abs/2502.08001 (only its abstract could be read). Differences: a told temperature
is undone, rows are weighted so that every class of the proxy set counts the same, and the guess is
compared with the mean guess over all clients instead of with the uniform one. The second guess, a
ridge regression from the mean answer to the distribution, is fitted to reference models with known
Dirichlet distributions; it gives the same rows the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.surrogates import (
    better_p,
    cannot_compare,
    degenerate,
    divergence,
    drawn_seed,
    newest_uploads,
    untempered,
)
from fedkd.audit.findings import Figure, LabelGuess, Result
from fedkd.audit.views import Adversary, Channel, View
from fedkd.training.steps import Examples, predict
from fedkd.types import Knowledge, ProxySet

Floats = NDArray[np.float64]


@attacks.register("label_distribution")
@dataclass(frozen=True)
class LabelDistribution(Attack):
    """Mean answer over a client's rows; the guess is moved a little towards that of all clients.

    Attributes:
        smoothing: share of the mean over all clients in each guess, so that no class has none.
        references: reference models of the ridge regression; 0 leaves it out.
        examples: labelled public examples that each of them is trained on.
        passes: their passes.
        alpha: parameter of the Dirichlet law of their label distributions.
        penalty: of the ridge regression, relative to the features' total variance.
        rows: proxy rows of a client that the regression reads at most.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    smoothing: Annotated[float, Gt(0), Le(1)] = 0.02
    references: Annotated[int, Ge(0)] = 24
    examples: Annotated[int, Ge(1)] = 200
    passes: Annotated[int, Ge(1)] = 5
    alpha: Annotated[float, Gt(0)] = 0.5
    penalty: Annotated[float, Gt(0)] = 0.01
    rows: Annotated[int, Ge(1)] = 1000

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods without uploads of knowledge, and fewer than two clients."""
        return cannot_compare(bench, truth)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Guess from every client's newest upload."""
        uploads = newest_uploads(view, n_classes=bench.task.n_classes)
        uploads = {c: sent for c, sent in uploads.items() if truth.label_counts[c].sum() > 0}
        if len(uploads) < 2:
            return Result(at_risk=AT_RISK, note="Fewer than two clients answered; nothing to tell.")
        weights = row_weights(uploads)
        means = {c: _mean_answer(untempered(u), weights[c]) for c, u in uploads.items()}
        guesses = scored_guesses(means, truth.label_counts, smoothing=self.smoothing)
        figures = [mean_divergence("mean KL of the mean answer, nats", guesses, rng=rng)]
        if self.references and bench.task.rows_per_input == 1:
            regressed = self._regressed(uploads, weights, view.proxy(), bench, rng=rng)
            better = scored_guesses(regressed, truth.label_counts, smoothing=self.smoothing)
            name = "mean KL of the ridge regression on reference models, nats"
            figures.append(mean_divergence(name, better, rng=rng))
        return Result(
            at_risk=AT_RISK,
            labels=guesses,
            figures=tuple(figures),
            note=PRIOR + too_few(len(uploads)) + degenerate(len(uploads)),
        )

    def _regressed(
        self,
        uploads: Mapping[int, Knowledge],
        weights: Mapping[int, Floats],
        proxy: ProxySet,
        bench: Bench,
        *,
        rng: np.random.Generator,
    ) -> dict[int, Floats]:
        """Return each client's guess by a regression on reference models asked the same rows."""
        asked = {c: np.sort(rng.permutation(len(u))[: self.rows]) for c, u in uploads.items()}
        laws: list[Floats] = []
        features: dict[int, list[Floats]] = {client: [] for client in uploads}

        def lots() -> Iterator[tuple[Examples, int]]:
            for _ in range(self.references):
                examples, law = self._skewed(bench, rng=rng)
                laws.append(law)
                yield examples, drawn_seed(rng)

        for module in bench.train_many(lots(), self.passes):
            answers = torch.softmax(predict(module, proxy.inputs).double(), dim=1)
            for client, upload in uploads.items():
                rows = upload.rows[torch.from_numpy(asked[client])]
                mean = _mean_answer(answers[rows], weights[client][asked[client]])
                features[client].append(np.sqrt(mean))
        guesses: dict[int, Floats] = {}
        for client, upload in uploads.items():
            at = asked[client]
            mean = _mean_answer(untempered(upload)[torch.from_numpy(at)], weights[client][at])
            guesses[client] = self._ridge(np.stack(features[client]), np.stack(laws), np.sqrt(mean))
        return guesses

    def _skewed(self, bench: Bench, *, rng: np.random.Generator) -> tuple[Examples, Floats]:
        """Return public examples with a Dirichlet label distribution, and which one it became."""
        labels, n_classes = bench.public.labels.cpu().numpy(), bench.task.n_classes
        law = rng.dirichlet(np.full(n_classes, self.alpha)) + 1e-9
        counts = np.bincount(labels, minlength=n_classes)
        each = law[labels] / counts[labels]
        taken = rng.choice(len(labels), size=self.examples, p=each / each.sum())
        at = torch.from_numpy(taken).to(bench.public.inputs.device)
        examples = Examples(inputs=bench.public.inputs[at], labels=bench.public.labels[at])
        return examples, np.bincount(labels[taken], minlength=n_classes) / self.examples

    def _ridge(self, features: Floats, laws: Floats, asked: Floats) -> Floats:
        """Return the law predicted for one client's features ``[classes]``, as probabilities."""
        middle = features.mean(axis=0)
        x, y = features - middle, laws - laws.mean(axis=0)
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += self.penalty * np.trace(gram) + 1e-12
        found = laws.mean(axis=0) + (asked - middle) @ np.linalg.solve(gram, x.T @ y)
        positive = np.clip(found, 0, None)
        return positive / positive.sum()


AT_RISK = "label distribution of clients"
PRIOR = (
    "Chance is the mean guess over all clients, which takes no channel to any single one; "
    "temperatures that were told are undone."
)


def too_few(n_clients: int) -> str:
    """Return a sentence when so few clients can never give p < 0.05, or an empty text."""
    if 2.0**-n_clients < 0.05:
        return ""
    return f" With {n_clients} clients p cannot fall below {2.0**-n_clients:.2g}."


def row_weights(uploads: Mapping[int, Knowledge]) -> dict[int, Floats]:
    """Return each client's weights of its rows, ``[n]``: every class of the proxy set alike.

    A row's class is a mixture, the mean answer of all clients that gave one; a row weighs as much
    as its classes are rare.
    """
    last = 1 + max(int(upload.rows[-1]) for upload in uploads.values())
    n_classes = next(iter(uploads.values())).scores.shape[1]
    sums, keepers = torch.zeros(last, n_classes).double(), torch.zeros(last, 1).double()
    for upload in uploads.values():
        sums[upload.rows] += untempered(upload)
        keepers[upload.rows] += 1
    mixtures = sums / keepers.clamp(min=1)
    shares = mixtures.sum(dim=0) / mixtures.sum()
    rare = mixtures @ (1 / shares.clamp(min=1 / (10 * n_classes)))
    told = {c: rare[u.rows] * u.weights.double().clamp(0, 1) for c, u in uploads.items()}
    return {client: weight.cpu().numpy() for client, weight in told.items()}


def _mean_answer(answers: torch.Tensor, weights: Floats) -> Floats:
    total = weights.sum()
    if total <= 0:
        return answers.mean(dim=0).cpu().numpy()
    return weights @ answers.cpu().numpy() / total


def scored_guesses(
    guesses: Mapping[int, Floats], label_counts: Floats, *, smoothing: float
) -> tuple[LabelGuess, ...]:
    """Return the guesses (shares ``[classes]``, by client) with what they are off by.

    Each is moved by ``smoothing`` towards the mean of all, which itself is moved as far towards
    the uniform distribution; the mean is the prior.
    """
    mean = np.mean(list(guesses.values()), axis=0)
    prior = (1 - smoothing) * mean + smoothing / len(mean)
    found: list[LabelGuess] = []
    for client, guess in guesses.items():
        true = label_counts[client] / label_counts[client].sum()
        moved = (1 - smoothing) * guess + smoothing * prior
        found.append(
            LabelGuess(
                client=client,
                true=tuple(true.tolist()),
                guessed=tuple(moved.tolist()),
                kl=divergence(true, moved),
                kl_prior=divergence(true, prior),
            )
        )
    return tuple(found)


def mean_divergence(
    name: str, guesses: tuple[LabelGuess, ...], *, rng: np.random.Generator
) -> Figure:
    """Return the mean KL against the prior's; p by flipping the signs of clients' gains."""
    gains = np.array([guess.kl_prior - guess.kl for guess in guesses])
    return Figure(
        name=name,
        value=float(np.mean([guess.kl for guess in guesses])),
        chance=float(np.mean([guess.kl_prior for guess in guesses])),
        p=better_p(gains, rng=rng),
    )
