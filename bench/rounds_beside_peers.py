"""The same FedAvg job on fedkd and on its peers: seconds of a round, of the whole job, CPU, memory.

    python -m bench.rounds_beside_peers --model mlp --rounds 10 --repeats 3 [--sides fedkd pfl-2]

The first round of every side is reported apart: it compiles, starts workers or evaluates. Every
process has one thread, but FedJAX, which is one process and may use all cores, and the sides named
so. Peers are installed into environments of their own (``bench/peers/environments.py``); those
that cannot be are named with the reason. Needs psutil.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench import harness, job
from bench.harness import Side, Table, Trial, figure, pair
from bench.peers.environments import PEERS, default_folder, environment

CORES = os.cpu_count() or 1


def _module(python: str, module: str, options: Sequence[str]) -> list[str]:
    return [python, "-m", module, *options]


def _torchrun(python: str, module: str, options: Sequence[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={CORES}"]
    return [python, *launcher, "-m", module, *options]


_Launch = Callable[[str, str, Sequence[str]], list[str]]
MODES: dict[str, tuple[str, _Launch, dict[str, str]]] = {
    "flower": ("flower", _module, {}),
    f"pfl, {CORES} processes": ("pfl", _torchrun, {}),
    "pfl, 1 process": ("pfl", _module, {}),
    "fedjax": ("fedjax", _module, dict.fromkeys(harness.ONE_THREAD, str(CORES))),
    "fedlab": ("fedlab", _module, {}),
    f"fedlab, {CORES} threads": ("fedlab", _module, {"OMP_NUM_THREADS": str(CORES)}),
    "blazefl": ("blazefl", _module, {}),
}
"""Every way in which a peer is run: its environment, launcher and variables."""


def sides(
    names: Sequence[str], options: Sequence[str], *, envs: Path
) -> tuple[list[Side], dict[str, str], dict[str, dict[str, str]]]:
    """Return the sides that can be run, why the others cannot, and versions by peer."""
    found = [Side(name="fedkd", command=_module(sys.executable, "bench.ours", options))]
    versions = {"fedkd": harness.versions(("fedkd", "torch", "numpy"))}
    skipped: dict[str, str] = {}
    environments = {}
    for name in names:
        peer, launch, variables = MODES[name]
        if peer not in environments:
            environments[peer] = environment(peer, envs=envs)
        ready = environments[peer]
        if ready.python is None:
            skipped[name] = ready.reason
            continue
        versions[peer] = ready.versions or {}
        command = launch(str(ready.python), f"bench.peers.{peer}", options)
        found.append(Side(name=name, command=command, environment=variables))
    return found, skipped, versions


def steady(trials: Sequence[Trial]) -> list[float]:
    """Return the seconds of all rounds but the first of every run."""
    return [s for trial in trials if not trial.error for s in trial.result["rounds"][1:]]


def rows(trials: dict[str, list[Trial]], *, model: str, peak: float) -> list[list[str]]:
    """Return a line a side: ratios are the side's figure over fedkd's."""
    lines: list[list[str]] = []
    good = {name: [t for t in tried if not t.error] for name, tried in trials.items()}
    ours = good["fedkd"]
    flops = job.FLOPS_PER_EXAMPLE[model] * job.CLIENTS * job.ROWS
    for name, tried in good.items():
        if not tried:
            continue
        seconds = harness.least_and_median(steady(tried))
        whole = [t.wall for t in tried]
        cpu = [t.cpu for t in tried]
        lines.append(
            [
                name,
                pair(seconds),
                pair(harness.ratios(steady(tried), steady(ours))),
                figure(harness.least_and_median(t.result["rounds"][0] for t in tried)["median"]),
                pair(harness.least_and_median(whole)),
                pair(harness.ratios(whole, [t.wall for t in ours])),
                pair(harness.least_and_median(cpu)),
                pair(harness.ratios(cpu, [t.cpu for t in ours])),
                figure(max(t.peak_mib for t in tried)),
                f"{100 * flops / seconds['median'] / peak:.1f} %",
                f"{min(t.result['accuracy'] for t in tried):.3f}",
            ]
        )
    return lines


COLUMNS = (
    "side",
    "round, s",
    "/ fedkd",
    "first round, s",
    "whole job, s",
    "/ fedkd",
    "CPU, s",
    "/ fedkd",
    "peak RSS, MiB",
    "of GEMM peak",
    "accuracy",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(job.FLOPS_PER_EXAMPLE), default="mlp")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="*", choices=list(MODES), default=list(MODES))
    parser.add_argument("--set", nargs="*", default=[], help="overrides for fedkd: runtime.* ...")
    parser.add_argument("--envs", type=Path, default=default_folder())
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    if read.rounds < 2:
        parser.error(f"--rounds {read.rounds}: the first round is reported apart, take 2 or more")
    options = ["--model", read.model, "--rounds", str(read.rounds)]
    found, skipped, versions = sides(read.sides, options, envs=read.envs)
    for name, reason in skipped.items():
        print(f"  skipped {name}: {reason}", file=sys.stderr)
    found[0] = replace(found[0], command=[*found[0].command, "--set", *read.set])
    peak = harness.gemm_peak()
    trials = harness.interleave(found, repeats=read.repeats)
    if error := next((t.error for t in trials["fedkd"] if t.error), ""):
        raise SystemExit(f"fedkd: {error}")
    failed = {
        name: next(t.error for t in tried if t.error)
        for name, tried in trials.items()
        if any(t.error for t in tried)
    }
    absent = [[name, reason] for name, reason in (skipped | failed).items()]
    known = PEERS.keys() & versions.keys()
    harness.save(
        f"rounds_{read.model}",
        settings={"rounds": read.rounds, "repeats": read.repeats, "model": read.model}
        | {"overrides": read.set}
        | {"gemm_peak_gflops": round(peak / 1e9, 1), "peers": sorted(known)},
        samples={"trials": harness.as_samples(trials), "skipped": skipped, "failed": failed},
        tables={
            "rounds": Table(columns=COLUMNS, rows=rows(trials, model=read.model, peak=peak)),
            "skipped": Table(columns=("side", "why there is no figure"), rows=absent),
        },
        packages=versions,
        out=read.out,
    )


if __name__ == "__main__":
    main()
