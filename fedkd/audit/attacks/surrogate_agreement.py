"""Model stealing: how well a copy made from uploads stands in for a client's own model.

After AdaMSA (Quantifying and defending against the privacy risk in logit-based federated learning),
which steals from the uploads of all rounds and weights later ones more. Differences: the copy is
distilled from one target a row, the mean over rounds with weights that grow linearly from the
first; agreement with the client is measured on rows that were held out from the copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.surrogates import (
    degenerate,
    drawn_seed,
    lesson_from,
    listed,
    merged,
    share_of,
    some_clients,
    sound,
    speaks_about_classes,
)
from fedkd.audit.findings import Result
from fedkd.audit.scoring import some
from fedkd.audit.views import Adversary, Channel, View
from fedkd.training.steps import Examples, predict
from fedkd.types import Consensus, Knowledge

Hits = NDArray[np.bool_]


@attacks.register("surrogate_agreement")
@dataclass(frozen=True)
class SurrogateAgreement(Attack):
    """A copy of a few clients' models, against a model that saw public examples only.

    Attributes:
        clients: whose model is copied, drawn at random.
        held_out: share of a client's rows that its copy does not learn from.
        passes: passes of a copy over the rows it learns from.
        train_passes: passes of the public model.
        examples: private examples of a client at most.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    clients: Annotated[int, Ge(1)] = 3
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.2
    passes: Annotated[int, Ge(1)] = 10
    train_passes: Annotated[int, Ge(1)] = 10
    examples: Annotated[int, Ge(1)] = 500

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods without knowledge, and sequences."""
        return speaks_about_classes(bench)

    def set_aside(self, bench: Bench) -> str:
        """Copies that answer like their originals are what distillation is for."""
        return "any exchange of knowledge allows it"

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Copy a few clients and ask the copies what their originals know."""
        uploads, proxy = all_uploads(view, n_classes=bench.task.n_classes), view.proxy()
        able = [c for c, sent in uploads.items() if c in truth.members and len(sent) > 1]
        chosen = some_clients(able, self.clients, rng=rng)
        public = bench.train(bench.public, self.train_passes, drawn_seed(rng))
        private: list[tuple[Hits, Hits]] = []
        answers: list[tuple[Hits, Hits]] = []
        cuts = [self._cut(uploads[c], truth.members[c], rng=rng) for c in chosen]
        lots = ((lesson_from(cut.learnt, proxy, bench), cut.seed) for cut in cuts)
        for cut, copy in zip(cuts, bench.distil_many(lots, self.passes), strict=True):
            private.append(_right(copy, public, cut.own.inputs, cut.own.labels))
            inputs, said = proxy.inputs[cut.held_out.rows], cut.held_out.scores
            answers.append(_right(copy, public, inputs, said.argmax(dim=1)))
        if not chosen:
            return Result(at_risk=AT_RISK, note="No client answered two rows: nothing to copy.")
        return Result(
            at_risk=AT_RISK,
            figures=(
                share_of(*_joined(private), "share of private examples a copy labels right"),
                share_of(*_joined(answers), "share of held-out answers a copy gives alike"),
            ),
            note=(
                f"Of {listed(chosen)}, drawn at random, and {len(view.rounds())} kept rounds; "
                "chance is a model trained on public examples alone, on the same questions. A "
                "client of one class is copied by a constant." + degenerate(len(uploads))
            ),
        )

    def _cut(self, sent: Consensus, members: Examples, *, rng: np.random.Generator) -> _Cut:
        """Hold out at least one answer."""
        order = torch.from_numpy(rng.permutation(len(sent)))
        n_out = min(len(sent) - 1, max(1, round(self.held_out * len(sent))))
        return _Cut(
            learnt=_part(sent, order[n_out:]),
            held_out=_part(sent, order[:n_out]),
            seed=drawn_seed(rng),
            own=some(members, rng.permutation(len(members))[: self.examples]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cut:
    """What one copy learns from and is asked.

    Attributes:
        learnt: answers of its client.
        held_out: other answers of its client.
        own: private examples of its client.
        seed: of the copy.
    """

    learnt: Consensus
    held_out: Consensus
    own: Examples
    seed: int


AT_RISK = "clients' models"


def all_uploads(view: View, *, n_classes: int) -> dict[int, Consensus]:
    """Return the mean of each client's uploads of all kept rounds, later ones counting more."""
    heard: dict[int, list[Knowledge]] = {}
    weights: dict[int, list[float]] = {}
    for place, n in enumerate(view.rounds(), start=1):
        for client, sent in view.uploads(n).items():
            if len(sent):
                heard.setdefault(client, []).append(sound(sent, n_classes))
                weights.setdefault(client, []).append(float(place))
    return {client: merged(heard[client], weights[client]) for client in sorted(heard)}


def _part(sent: Consensus, at: Tensor) -> Consensus:
    at = at.sort().values
    told = sent.row_temperatures
    return Consensus(
        rows=sent.rows[at],
        scores=sent.scores[at],
        space=sent.space,
        temperature=sent.temperature,
        keepers=None,
        row_temperatures=None if told is None else told[at],
    )


def _right(copy: nn.Module, public: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Hits, Hits]:
    """Return bool ``[n]`` of the copy and of the public model: which answers are ``labels``."""
    copied, known = (predict(module, inputs).argmax(dim=1) for module in (copy, public))
    return (copied == labels).cpu().numpy(), (known == labels).cpu().numpy()


def _joined(hits: list[tuple[Hits, Hits]]) -> tuple[Hits, Hits]:
    return np.concatenate([ours for ours, _ in hits]), np.concatenate([base for _, base in hits])
