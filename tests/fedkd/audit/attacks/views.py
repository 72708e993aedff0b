"""A small federation in memory: really trained models, real uploads, the view an attack gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fedkd.audit.attacks.base import Bench, Truth
from fedkd.audit.bench import bench_of
from fedkd.audit.views import Adversary, NotSeen
from fedkd.compose import compose
from fedkd.data.federation import Planted, load
from fedkd.methods.base import CoDistillation
from fedkd.scenario import Scenario
from fedkd.training.steps import Examples, predict_rows
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space, Update

N_CLASSES = 10
WRONG = 0.3
"""Share of labels that are drawn at random, of members and non-members alike: what is memorized."""
JITTER = 12
"""Grey levels by which a proxy row may differ from the private example it was made from."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryView:
    """A view of rounds held in memory; ``blind`` to uploads if asked."""

    kept: ProxySet
    sent: Mapping[int, Mapping[int, Knowledge]]
    answered: Mapping[int, Consensus]
    blind: bool = False
    adversary: Adversary = Adversary.SERVER

    def rounds(self) -> tuple[int, ...]:
        return tuple(sorted(self.answered))

    def proxy(self) -> ProxySet:
        return self.kept

    def uploads(self, round: int) -> Mapping[int, Knowledge]:
        if self.blind:
            raise NotSeen("no uploads")
        return self.sent[round]

    def consensus(self, round: int) -> Consensus:
        return self.answered[round]

    def student(self) -> Update:
        raise NotSeen("no student")


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """What an attack is run on, and examples like the members that no client trained on."""

    scenario: Scenario
    view: MemoryView
    bench: Bench
    truth: Truth
    others: Mapping[int, Examples] = field(default_factory=dict)

    def of_others(self) -> World:
        """Return the same world with members that are none: a control."""
        return replace(self, truth=replace(self.truth, members=self.others))

    def seen(self, **changes: object) -> World:
        """Return the world with another view."""
        return replace(self, view=replace(self.view, **changes))

    def masked(self, seed: int = 0) -> World:
        """Return the world under masked sums: every client sends noise about every row."""
        rng = torch.Generator().manual_seed(seed)
        n_rows = self.view.kept.n_rows

        def noise(sent: Knowledge) -> Knowledge:
            words = torch.rand(n_rows, N_CLASSES, generator=rng)
            return replace(
                sent,
                rows=torch.arange(n_rows),
                scores=words / words.sum(dim=1, keepdim=True),
                weights=torch.ones(n_rows),
            )

        uploads = {n: {c: noise(u) for c, u in by.items()} for n, by in self.view.sent.items()}
        return self.seen(sent=uploads)


def world(
    *overrides: str,
    n_clients: int = 5,
    each: int = 60,
    alpha: float | None = None,
    wrong: float = 0.0,
    rounds: int = 1,
    own_classes_only: bool = False,
    seed: int = 0,
) -> World:
    """Return a federation on handwritten digits.

    Args:
        overrides: of the scenario, beyond data, model and recipe.
        n_clients: each overfits its own examples.
        each: examples of a client.
        alpha: of the Dirichlet law of a client's labels; None draws examples at random.
        wrong: share of labels drawn at random.
        rounds: uploads that are kept; each is from 40 further passes.
        own_classes_only: clients answer rows of classes they hold.
        seed: of everything.
    """
    recipe = ("training.learning_rate=0.01", "training.batch_size=20", "models=mlp")
    scenario = compose(["data=digits", f"clients={n_clients}", *recipe, *overrides])
    arrays, rng = load(scenario.data), np.random.default_rng(seed)
    inputs, labels = _noisy(arrays.train_inputs, arrays.train_labels, wrong, rng)
    order = rng.permutation(len(labels))
    members: dict[int, Examples] = {}
    for client in range(n_clients):
        mine = _drawn(labels, order, each, alpha, rng)
        order = np.setdiff1d(order, mine)
        members[client] = _examples(inputs, labels, mine)
    order = rng.permutation(order)
    others = {c: _examples(inputs, labels, order[c * each :][:each]) for c in range(n_clients)}
    nonmembers = _examples(inputs, labels, order[n_clients * each :])
    bench = bench_of(scenario)
    proxy = _jittered(members, rng)
    sent, answered = _exchange(scenario, bench, members, proxy, rounds, own_classes_only, seed)
    counts = [np.bincount(part.labels.numpy(), minlength=N_CLASSES) for part in members.values()]
    nothing = np.zeros(0, dtype=np.int64)
    return World(
        scenario=scenario,
        view=MemoryView(kept=proxy, sent=sent, answered=answered),
        bench=bench,
        truth=Truth(
            members=members,
            nonmembers=nonmembers,
            planted=Planted(arrays=arrays, canaries=(), number=nothing, holder=nothing),
            label_counts=np.stack(counts).astype(float),
        ),
        others=others,
    )


def _noisy(
    inputs: np.ndarray, labels: np.ndarray, wrong: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    drawn = rng.integers(N_CLASSES, size=len(labels))
    return inputs, np.where(rng.random(len(labels)) < wrong, drawn, labels)


def _drawn(
    labels: np.ndarray, left: np.ndarray, n: int, alpha: float | None, rng: np.random.Generator
) -> np.ndarray:
    if alpha is None:
        return rng.permutation(left)[:n]
    law = rng.dirichlet(np.full(N_CLASSES, alpha))
    odds = law[labels[left]] + 1e-9
    return rng.choice(left, size=n, replace=False, p=odds / odds.sum())


def _examples(inputs: np.ndarray, labels: np.ndarray, at: np.ndarray) -> Examples:
    return Examples(inputs=torch.from_numpy(inputs[at]), labels=torch.from_numpy(labels[at]))


def _jittered(members: Mapping[int, Examples], rng: np.random.Generator) -> ProxySet:
    """Return one proxy row for each private example: the example with other grey levels."""
    clear = torch.cat([part.inputs for part in members.values()]).short()
    shift = torch.from_numpy(rng.integers(-JITTER, JITTER + 1, size=clear.shape)).short()
    owner = torch.repeat_interleave(
        torch.tensor(list(members)), torch.tensor([len(part) for part in members.values()])
    )
    return ProxySet(
        inputs=(clear + shift).clamp(0, 255).byte(),
        ids=torch.arange(len(clear)),
        owner=owner,
        source=ProxySource.POOLED,
    )


def _exchange(
    scenario: Scenario,
    bench: Bench,
    members: Mapping[int, Examples],
    proxy: ProxySet,
    rounds: int,
    own_classes_only: bool,
    seed: int,
) -> tuple[dict[int, dict[int, Knowledge]], dict[int, Consensus]]:
    method = scenario.method
    assert isinstance(method, CoDistillation)
    truly = torch.cat([part.labels for part in members.values()])
    sent: dict[int, dict[int, Knowledge]] = {}
    answered: dict[int, Consensus] = {}
    for n in range(1, rounds + 1):
        sent[n] = {}
        for client, part in members.items():
            module = bench.train(part, 40 * n, 100 * seed + client)
            rows = torch.arange(len(proxy))
            if own_classes_only:
                rows = rows[torch.isin(truly, part.labels)]
            scores = predict_rows(module, proxy.inputs, rows, rows_per_input=1)
            said = Knowledge(
                rows=rows, scores=scores, weights=torch.ones(len(rows)), space=Space.LOGITS
            )
            upload = method.encode(said)
            assert isinstance(upload, Knowledge)
            sent[n][client] = upload
        rng = torch.Generator().manual_seed(n)
        found = method.server_round(list(sent[n].values()), n_rows=len(proxy), rng=rng)
        assert isinstance(found, Consensus)
        answered[n] = found
    return sent, answered
