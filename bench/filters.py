"""The KMeans filter of EdgeFD against KuLSIF of Selective-FD, by private rows and dimension.

    python -m bench.filters [--rows 600 2000 6000] [--dimensions 64 784 3072]

Both are fedkd's components, fitted through ``Filter.fit`` on the same client's features in the raw
space, one thread. As published, KuLSIF has as many auxiliary rows as it knows private ones, so the
caps that fedkd puts on both by default are lifted here; ``fedkd's caps`` is the filter with them.
``lean KuLSIF`` is the fastest KuLSIF we could write: float32 and Cholesky, no calibration at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench import harness
from bench.harness import Table, figure, pair
from fedkd.filters.base import ClientView, Filter
from fedkd.filters.kmeans import KMeansFilter
from fedkd.filters.kulsif import KuLSIF

PROXY, CENTERS = 2000, 10


def client(n_rows: int, dimension: int) -> ClientView:
    """Return a client of one class whose features lie in ten clusters, and a proxy set like it."""
    draw = torch.Generator().manual_seed(1)
    middles = torch.randn(CENTERS, dimension, generator=draw)

    def rows(n: int) -> Tensor:
        around = middles[torch.randint(CENTERS, (n,), generator=draw)]
        return around + torch.randn(n, dimension, generator=draw)

    return ClientView(
        private=rows(n_rows),
        contributed=torch.zeros(n_rows, dtype=torch.bool),
        proxy=rows(PROXY),
        own=torch.zeros(PROXY, dtype=torch.bool),
        labels=torch.zeros(n_rows, dtype=torch.int64),
    )


def fit(one: Filter, view: ClientView) -> dict[str, Tensor]:
    return one.fit(view, rng=torch.Generator().manual_seed(0))


def lean_kulsif(view: ClientView) -> Tensor:
    """Solve KuLSIF's system for all private rows in float32."""
    known = view.private
    n = len(known)
    low, high = view.proxy.aminmax(dim=0)
    auxiliary = low + (high - low) * torch.rand(known.shape)
    width = torch.cdist(known[:500], known[:500]).median()
    penalty = n**-0.5
    system = torch.cdist(auxiliary, auxiliary).square_().div_(-2 * width**2).exp_().div_(n)
    system.diagonal().add_(penalty)
    right = torch.cdist(auxiliary, known).square_().div_(-2 * width**2).exp_().sum(dim=1)
    right = right.div_(-n * n * penalty)[:, None]
    return torch.cholesky_solve(right, torch.linalg.cholesky(system))


def calls(view: ClientView) -> dict[str, Callable[[], object]]:
    """Return the fits that are compared, the KMeans filter first."""
    n = len(view.private)
    return {
        "kmeans": partial(fit, KMeansFilter(), view),
        "kulsif": partial(fit, KuLSIF(n_auxiliary=n, max_known=n), view),
        "lean KuLSIF": partial(lean_kulsif, view),
        "kulsif, fedkd's caps": partial(fit, KuLSIF(), view),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[600, 2000, 6000])
    parser.add_argument("--dimensions", type=int, nargs="*", default=[64, 784, 3072])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    torch.set_num_threads(1)
    lines, samples = [], {}
    for dimension in read.dimensions:
        for n_rows in read.rows:
            view = client(n_rows, dimension)
            sides = calls(view)
            taken = harness.interleave_calls(sides, repeats=read.repeats)
            memory = {name: harness.peak_growth_mib(call) for name, call in sides.items()}
            samples[f"{n_rows} x {dimension}"] = {
                name: {"seconds": [vars(t) for t in taken[name]], "peak_mib": memory[name]}
                for name in sides
            }
            base = [t.cpu for t in taken["kmeans"]]
            for name in sides:
                cpu = [t.cpu for t in taken[name]]
                milliseconds = harness.least_and_median(1e3 * seconds for seconds in cpu)
                lines.append(
                    [
                        str(n_rows),
                        str(dimension),
                        name,
                        pair(milliseconds),
                        pair(harness.ratios(cpu, base)),
                        figure(memory[name]),
                    ]
                )
    harness.save(
        "filters",
        settings={"rows": read.rows, "dimensions": read.dimensions, "repeats": read.repeats},
        samples=samples,
        tables={
            "fit": Table(
                columns=("rows", "d", "filter", "fit, CPU ms", "/ kmeans", "peak growth, MiB"),
                rows=lines,
            )
        },
        packages={"fedkd": harness.versions(("fedkd", "torch", "scikit-learn"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
