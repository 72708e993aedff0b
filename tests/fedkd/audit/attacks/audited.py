"""A tiny run with canaries that leak, as its auditor sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedkd.audit.attacks.base import Bench, Truth
from fedkd.audit.bench import bench_of, truth_of
from fedkd.audit.views import Adversary, View
from fedkd.run_files import read_scenario
from fedkd.transcript import Transcript

LEAKY = (
    "method=fedmd",
    "rounds=4",
    "canaries={insertions: [32], per_level: 20, in_proxy: true}",
    "training={learning_rate: 0.005, local_epochs: 2}",
    "proxy.fraction=0.3",
    "server_model=mlp",
    "transcript=all",
    "measure_every=10",
)
"""Overrides of the tests' tiny scenario."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Audited:
    """A finished run with its bench and truth."""

    path: Path
    bench: Bench
    truth: Truth

    @staticmethod
    def of(path: Path) -> Audited:
        scenario = read_scenario(path)
        return Audited(path=path, bench=bench_of(scenario), truth=truth_of(scenario))

    def view(self, adversary: Adversary) -> View:
        client = 0 if adversary is Adversary.CLIENT else None
        return Transcript.read(self.path).seen_by(adversary, client=client)

    def with_other_secrets(self, seed: int) -> Audited:
        """Return the run with secrets that were drawn after it: nobody can know them."""
        rng, planted = np.random.default_rng(seed), self.truth.planted
        settings = self.bench.scenario.canaries
        assert settings is not None
        n_secrets = settings.family.n_secrets(planted.arrays)
        drawn = tuple(
            replace(canary, secret=int(rng.integers(n_secrets))) for canary in planted.canaries
        )
        return replace(self, truth=replace(self.truth, planted=replace(planted, canaries=drawn)))
