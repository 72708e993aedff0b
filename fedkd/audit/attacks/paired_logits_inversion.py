"""Pictures of what a client's classes look like, from pairs of the server's and its own answers.

After Paired-Logits Inversion, Takahashi et al. 2023, https://arxiv.org/abs/2304.11436, made light:
the inverter is a ridge regression trained on the proxy rows that a client answered, with no prior
image and no blurred public classes, and the server's side is the consensus. The ideal pair and the
criterion (the highest SSIM among class means) are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from torch import Tensor

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.surrogates import (
    better_p,
    degenerate,
    newest_uploads,
    speaks_about_classes,
)
from fedkd.audit.findings import Figure, Result
from fedkd.audit.intervals import share_interval
from fedkd.audit.similarity import ssim
from fedkd.audit.views import Adversary, Channel, NotSeen, View
from fedkd.training.steps import Examples, as_model_input
from fedkd.types import Consensus, Knowledge, Space

Floats = NDArray[np.float64]

LARGEST = 32
"""Pixels of a side."""


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What became of one picture.

    Attributes:
        asked: the class it was asked for.
        named: the class whose mean it is most like.
        alone: the same without the client's answers.
        nearer: SSIM with the client's class mean less that with the public one, or None.
    """

    asked: int
    named: int
    alone: int
    nearer: float | None


@attacks.register("paired_logits_inversion")
@dataclass(frozen=True)
class PairedLogitsInversion(Attack):
    """A linear inverter for each client; asked for the ideal pair of each class the client holds.

    Attributes:
        gap: a in the ideal pair's server side: exp(1 / a) for the class against 1 for all others.
        penalty: of the ridge regression, for each row it is trained on.
        least_rows: a client that answered fewer rows is left out.
        least_examples: a class of which a client holds fewer examples is left out.
        shuffles: of the pictures among the questions, for the p-value.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    gap: Annotated[float, Gt(0)] = 5.0
    penalty: Annotated[float, Gt(0)] = 1e-3
    least_rows: Annotated[int, Ge(2)] = 20
    least_examples: Annotated[int, Ge(1)] = 5
    shuffles: Annotated[int, Ge(99)] = 1999

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse anything but small images and uploads of knowledge."""
        refusal = speaks_about_classes(bench)
        shape = bench.public.inputs.shape[1:]
        if refusal or (len(shape) == 3 and max(shape[1:]) <= LARGEST):
            return refusal
        return f"inputs {list(shape)} are no images of {LARGEST} x {LARGEST} pixels or less"

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Draw each client's classes and see whose mean they look like most."""
        n_classes = bench.task.n_classes
        uploads = newest_uploads(view, n_classes=n_classes)
        teacher, pixels = _newest_consensus(view), _pixels(view.proxy().inputs)
        everyone = class_means(truth.members, n_classes=n_classes)
        drawn: list[_Drawn] = []
        for client, sent in uploads.items():
            x, y = _pairs(sent, teacher, pixels)
            if len(x) < self.least_rows or client not in truth.members:
                continue
            own = {client: truth.members[client]}
            held = class_means(own, n_classes=n_classes, least=self.least_examples)
            for label, mean in held.items():
                pictures = [
                    self._picture(side, y, label, n_classes=n_classes)
                    for side in (x, x[:, :n_classes])
                ]
                means = {**everyone, label: mean}
                pair = fair_means(own[client], bench.public, label, rng=rng)
                drawn.append(_judged(pictures, label, means, pair, n_classes=n_classes))
        if not drawn:
            return Result(at_risk=AT_RISK, note="No client answered enough rows to learn from.")
        return Result(
            at_risk=AT_RISK,
            figures=self._figures(drawn, chance=1 / n_classes, rng=rng),
            note=NOTE + degenerate(len(uploads)),
        )

    def _picture(self, x: Floats, y: Floats, label: int, *, n_classes: int) -> Floats:
        """Return the inverter's answer, ``[channels, height, width]``, to the ideal pair."""
        raised = math.exp(1 / self.gap)
        server = np.full(n_classes, 1 / (n_classes - 1 + raised))
        server[label] *= raised
        query = np.concatenate([server, np.eye(n_classes)[label]])[: x.shape[1]]
        flat, middle = y.reshape(len(y), -1), x.mean(axis=0)
        gram = (x - middle).T @ (x - middle)
        gram[np.diag_indices_from(gram)] += self.penalty * len(x)
        weights = np.linalg.solve(gram, (x - middle).T @ (flat - flat.mean(axis=0)))
        found = flat.mean(axis=0) + (query - middle) @ weights
        return np.clip(found, 0, 1).reshape(y.shape[1:])

    def _figures(
        self, drawn: Sequence[_Drawn], *, chance: float, rng: np.random.Generator
    ) -> tuple[Figure, ...]:
        hits = np.array([one.named == one.asked for one in drawn])
        blind = np.array([one.alone == one.asked for one in drawn])
        beyond = better_p(_by_class(drawn, hits.astype(float) - blind), rng=rng)
        interval = share_interval(int(hits.sum()), len(hits))
        found = Figure(
            name="share of pictures most like the class they were asked for",
            value=float(hits.mean()),
            chance=max(chance, float(blind.mean())),
            interval=(interval.low, interval.high),
            p=max(beyond, self._shuffled_p(drawn, rng=rng)),
        )
        alone = Figure(
            name="the same from the consensus alone, beside guessing",
            value=float(blind.mean()),
            chance=chance,
        )
        judged = [one for one in drawn if one.nearer is not None]
        nearer = np.array([one.nearer for one in judged], dtype=np.float64)
        if not judged:
            return found, alone
        private = Figure(
            name="SSIM with the client's class mean, less that with the public one",
            value=float(nearer.mean()),
            chance=0.0,
            p=better_p(_by_class(judged, nearer), rng=rng),
        )
        return found, alone, private

    def _shuffled_p(self, drawn: Sequence[_Drawn], *, rng: np.random.Generator) -> float:
        """Return the p-value of pictures that have nothing to do with what was asked."""
        asked = np.array([one.asked for one in drawn])
        named = np.array([one.named for one in drawn])
        orders = rng.permuted(np.tile(np.arange(len(drawn)), (self.shuffles, 1)), axis=1)
        shuffled = (named[orders] == asked).mean(axis=1)
        hits = (named == asked).mean()
        return float((1 + (shuffled >= hits - 1e-12).sum()) / (1 + self.shuffles))


def _by_class(drawn: Sequence[_Drawn], gains: Floats) -> Floats:
    """Return the gains of pictures added up by class: those of a class are not independent."""
    asked = np.array([one.asked for one in drawn])
    return np.array([gains[asked == label].sum() for label in np.unique(asked)])


AT_RISK = "what a client's classes look like"
NOTE = (
    "Where the proxy set shows a class in clear, what it looks like is no secret: a hit says that "
    "answers name the class. The consensus may, too: hits count as far as they are more than "
    "shuffled pictures have, and more than pictures without the client's own answers. The last "
    "figure says whether pictures are nearer to the client's own examples than to as many public "
    "ones. Beyond shuffling, p counts classes, not pictures, for pictures of a class are held "
    "against the same consensus and public examples."
)


def _judged(
    pictures: Sequence[Floats],
    label: int,
    means: Mapping[int, Floats],
    pair: tuple[Floats, Floats] | None,
    *,
    n_classes: int,
) -> _Drawn:
    likeness, alone = (_likeness(one, means, n_classes=n_classes) for one in pictures)
    nearer = None
    if pair is not None:
        nearer = ssim(pictures[0], pair[0]) - ssim(pictures[0], pair[1])
    return _Drawn(
        asked=label, named=int(likeness.argmax()), alone=int(alone.argmax()), nearer=nearer
    )


def _newest_consensus(view: View) -> Consensus:
    kept = view.rounds()
    if not kept:
        raise NotSeen("no round was kept; run again with transcript=last")
    return view.consensus(kept[-1])


def _pixels(inputs: Tensor) -> Floats:
    return as_model_input(inputs).double().cpu().numpy()


def _pairs(sent: Knowledge, teacher: Consensus, pixels: Floats) -> tuple[Floats, Floats]:
    """Return pairs ``[n, 2 classes]``, the server's side first, and images of the same rows."""
    rows, mine, common = np.intersect1d(
        sent.rows.cpu().numpy(), teacher.rows.cpu().numpy(), return_indices=True
    )
    sides = (
        _answers(teacher.scores, teacher.space)[torch.from_numpy(common)],
        _answers(sent.scores, sent.space)[torch.from_numpy(mine)],
    )
    return torch.cat(sides, dim=1).cpu().numpy(), pixels[rows]


def _answers(scores: Tensor, space: Space) -> Tensor:
    """Return probabilities as they were sent, or logits at temperature 1, float64."""
    return scores.double() if space is Space.PROBS else torch.softmax(scores.double(), dim=1)


def class_means(
    members: Mapping[int, Examples], *, n_classes: int, least: int = 1
) -> dict[int, Floats]:
    """Return the mean image of each class of which there are ``least`` examples in all."""
    sums: dict[int, Floats] = {}
    counts = np.zeros(n_classes, dtype=np.int64)
    for examples in members.values():
        labels, pixels = examples.labels.cpu().numpy(), _pixels(examples.inputs)
        counts += np.bincount(labels, minlength=n_classes)
        for label in np.unique(labels).tolist():
            sums[label] = sums.get(label, 0.0) + pixels[labels == label].sum(axis=0)
    return {label: sums[label] / counts[label] for label in sorted(sums) if counts[label] >= least}


def fair_means(
    own: Examples, public: Examples, label: int, *, rng: np.random.Generator
) -> tuple[Floats, Floats] | None:
    """Return the means of equally many own and public examples of a class, or None without any.

    A mean of more examples is smoother, and a smooth picture is more like it for that alone.
    """
    sides = [np.flatnonzero(side.labels.cpu().numpy() == label) for side in (own, public)]
    n = min(map(len, sides))
    if not n:
        return None
    mine, others = (
        _pixels(side.inputs[torch.from_numpy(rng.permutation(at)[:n])]).mean(axis=0)
        for side, at in zip((own, public), sides, strict=True)
    )
    return mine, others


def _likeness(picture: Floats, means: Mapping[int, Floats], *, n_classes: int) -> Floats:
    """Return the SSIM with each class's mean, ``[classes]``; -1 for classes that have none."""
    found = np.full(n_classes, -1.0)
    for label, mean in means.items():
        found[label] = ssim(picture, mean)
    return found
