"""The audit of a run: every attack, each through its adversary's eyes, scored with the truth."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.audit import run_facts
from fedkd.audit.against import check_paired, compared
from fedkd.audit.attacks.base import Attack, Bench, Truth
from fedkd.audit.attacks.base import attacks as registry
from fedkd.audit.bench import bench_of, truth_of
from fedkd.audit.plain import channel_row, measured
from fedkd.audit.verdict import verdict
from fedkd.audit.views import Adversary, NotSeen, View
from fedkd.canaries.base import Canary
from fedkd.data.federation import load, planted
from fedkd.rng import numpy_stream
from fedkd.run_files import read_scenario
from fedkd.scenario import Scenario
from fedkd.transcript import Transcript
from fedkd.types import SCHEMA

logger = logging.getLogger("fedkd.audit")

Progress = Callable[[int, int, dict[str, Any]], None]
"""Is told, after each attack: how many are done, of how many, and the attack's row."""


def audit(
    run_dir: Path,
    *,
    against: Path | None = None,
    attacks: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attack a finished run and return what was found, as plain data (docs/how_to/audit.md).

    Args:
        run_dir: a run folder with a transcript.
        against: the same scenario's run without protection, or with another one.
        attacks: names; None runs all that there are.
        seed: of every draw an attack makes; the same seed gives the same dict but for ``seconds``.
        progress: see :data:`Progress`.

    Raises:
        ConfigError: no run, no transcript, an unknown attack, or runs that do not pair.
    """
    started = time.perf_counter()
    chosen = _chosen(attacks)
    runs = [run_dir] if against is None else [run_dir, against]
    scenarios = [read_scenario(run) for run in runs]
    transcripts = [Transcript.read(run) for run in runs]
    if against is not None:
        check_paired(*scenarios)
    steps = _Steps(progress, total=len(chosen) * len(runs))
    found = [
        _one(_Audited(run, scenario, transcript), chosen, seed=seed, steps=steps)
        for run, scenario, transcript in zip(runs, scenarios, transcripts, strict=True)
    ]
    beside: dict[str, Any] = {
        "exposure_reduction": None,
        "exposure_reduction_ci": None,
        "exposure_reduction_reason": "no run to compare with was given (--against)",
        "comparison": None,
    }
    if against is not None:
        beside = compared(*found, rng=numpy_stream(seed, "audit against"))
    return {**found[0], **beside, "seconds": time.perf_counter() - started}


@dataclass(frozen=True, eq=False)
class _Audited:
    """A run under audit."""

    folder: Path
    scenario: Scenario
    transcript: Transcript

    def view(self, adversary: Adversary) -> View:
        """Return the view of an adversary; of the clients, the one with the fewest canaries."""
        client = self.onlooker() if adversary is Adversary.CLIENT else None
        return self.transcript.seen_by(adversary, client=client)

    def onlooker(self) -> int:
        """Return the client whose eyes are used: one that holds as few canaries as any."""
        held = Counter(c for canary in self.canaries() for c in canary.holders)
        return min(range(self.scenario.clients), key=lambda client: (held[client], client))

    def canaries(self) -> tuple[Canary, ...]:
        """Return what was planted."""
        return planted(self.scenario.layout()).canaries


@dataclass
class _Steps:
    """Counts attacks and tells who listens."""

    progress: Progress | None
    total: int
    done: int = 0

    def tell(self, row: dict[str, Any]) -> None:
        """One more attack is done."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, row)


def _chosen(names: Sequence[str] | None) -> list[Attack]:
    """Return the attacks to run, with their default settings."""
    wanted = registry.names() if names is None else names
    return [registry.get(name, path="attacks")() for name in wanted]


def _one(run: _Audited, chosen: Sequence[Attack], *, seed: int, steps: _Steps) -> dict[str, Any]:
    """Return the report of one run, without a comparison."""
    bench, truth = bench_of(run.scenario), truth_of(run.scenario)
    rows: list[dict[str, Any]] = []
    for attack in chosen:
        rows.append(_row(attack, run, bench, truth, seed=seed))
        steps.tell(rows[-1])
    words = load(run.scenario.data).words if bench.task.rows_per_input == 1 else ()
    return {
        "schema": SCHEMA,
        "kind": "fedkd-audit",
        "run": run_facts.identity(run.folder, run.scenario, run.transcript),
        "claim": run_facts.claims(run.folder, run.scenario),
        "verdict": verdict(rows),
        "utility": run_facts.utility(run.folder),
        "channels": rows,
        "class_names": list(words),
        "canaries": run_facts.canary_list(run.scenario),
        "ledger": run_facts.spending(run.folder, run.scenario),
        "footnotes": _footnotes(run, bench, truth, seed=seed),
    }


def _row(attack: Attack, run: _Audited, bench: Bench, truth: Truth, *, seed: int) -> dict[str, Any]:
    """Run one attack; whatever goes wrong is its row's status and reason."""
    started, result, reason = time.perf_counter(), None, attack.applies(bench, truth)
    status = "not applicable"
    if not reason:
        rng = numpy_stream(seed, f"attack {registry.name_of(attack)}")
        try:
            result = attack.run(run.view(attack.adversary), bench, truth, rng=rng)
        except NotSeen as unseen:
            status, reason = "not seen", str(unseen)
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {str(error)[:200]}"
            logger.debug("the attack failed", exc_info=True)
        else:
            status = "ran" if measured(result) else "not applicable"
            reason = "" if status == "ran" else result.note
    aside = attack.set_aside(bench)
    row = channel_row(attack, result, status=status, reason=reason, set_aside=aside)
    return {**row, "seconds": time.perf_counter() - started}


def _footnotes(run: _Audited, bench: Bench, truth: Truth, *, seed: int) -> list[str]:
    kept, rounds = run.transcript.kept.value, len(run.transcript.rounds())
    n_members = sum(len(part) for part in truth.members.values())
    return [
        f"{len(truth.planted.canaries)} canaries; {n_members} examples were trained on and not "
        f"given to the proxy set; {len(truth.nonmembers)} test examples are non-members, "
        f"{len(bench.public)} are known to every adversary.",
        f"The transcript kept {kept} rounds ({rounds}). The client that looks is client "
        f"{run.onlooker()}.",
        "Epsilon bounds hold one by one at 95 %; membership thresholds are chosen on one half and "
        "bounded on the other, the rank that counts as extraction is fixed at 1. Of the verdict's "
        "tests one a measurement and number of insertions counts, at 5 % after Holm's correction.",
        "AUC is tested by Mann-Whitney, up to 2,500 pairs by its exact law. "
        "Attacks that may succeed although nothing private leaks are shown and do not decide the "
        "verdict; its limits say which and why.",
        "Exposure beyond the cap of sampled secrets is extrapolated for canaries at the cap only, "
        "where a skew-normal fit passes its tests; no test, bound or reduction uses it.",
        "Surrogates and reference models are trained without DP and without a protector, with the "
        f"run's recipe. Audit seed {seed}.",
    ]
