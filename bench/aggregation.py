"""What an aggregator makes of memory bandwidth, and what memory it needs by number of clients.

    python -m bench.aggregation [--aggregator mean] [--clients 100] [--rows 10000] [--classes 100]

One thread. ``sent`` is the size of the uploads' scores; its time is compared with that of torch
reading as many bytes once (``sum``), in the same interleaved run. The naive side is the plain loop
over a row's keepers. The process keeps memory that it freed, as those that train clients do
(``fedkd/heap.py``): else all sides' time depends on what it happened to free before.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench import harness
from bench.harness import Seconds, Table, figure, pair
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.heap import keep_freed_memory
from fedkd.types import Consensus, Knowledge, Space

POOL = 64
"""Different tables of scores that many clients share where only memory is measured."""


def uploads(
    clients: int, *, rows: int, classes: int, keep: float, distinct: int | None = None
) -> list[Knowledge]:
    """Return what ``clients`` send about a random share ``keep`` of the proxy rows.

    Args:
        clients: how many.
        rows: of the proxy set.
        classes: of the task.
        keep: share of rows, in (0, 1].
        distinct: how many different tables of scores there are; None for one a client.
    """
    draw = torch.Generator().manual_seed(0)
    kept = round(keep * rows)
    tables = [
        torch.softmax(torch.randn(kept, classes, generator=draw), dim=1)
        for _ in range(distinct or clients)
    ]
    return [
        Knowledge(
            rows=torch.randperm(rows, generator=draw)[:kept].sort().values,
            scores=tables[client % len(tables)],
            weights=torch.ones(kept),
            space=Space.PROBS,
            temperature=1.0,
        )
        for client in range(clients)
    ]


def fold(aggregator: Aggregator, sent: list[Knowledge], n_rows: int) -> Consensus:
    """Aggregate once."""
    return aggregator.aggregate(sent, n_rows=n_rows, rng=torch.Generator().manual_seed(0))


def naive(sent: list[Knowledge], n_rows: int) -> Tensor:
    """Return the mean by a loop over clients and rows, which is what many codes do."""
    sums: dict[int, Tensor] = {}
    keepers: dict[int, int] = {}
    for upload in sent:
        for row, scores in zip(upload.rows.tolist(), upload.scores, strict=True):
            sums[row] = sums[row] + scores if row in sums else scores
            keepers[row] = keepers.get(row, 0) + 1
    return torch.stack([sums[row] / keepers[row] for row in sorted(sums)])


def read_once(sent: list[Knowledge]) -> None:
    """Read every score once, as fast as torch does."""
    for upload in sent:
        upload.scores.sum()


def line(name: str, taken: list[Seconds], sent_bytes: int, bandwidth: float) -> list[str]:
    """Return a row of the table of times."""
    cpu = harness.least_and_median(t.cpu for t in taken)
    rate = {key: sent_bytes / seconds for key, seconds in cpu.items()}
    share = {key: 100 * rate[key] / bandwidth for key in rate}
    return [
        name,
        pair({key: 1e3 * seconds for key, seconds in cpu.items()}),
        pair({key: value / 1e9 for key, value in rate.items()}),
        pair(share),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aggregators", nargs="*", default=["mean"])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-clients", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    shape = {"rows": read.rows, "classes": read.classes, "keep": read.keep}
    sent = uploads(read.clients, **shape)
    sent_bytes = sum(upload.scores.nbytes for upload in sent)
    chosen = {name: aggregators.get(name)() for name in read.aggregators}
    calls = {name: partial(fold, one, sent, read.rows) for name, one in chosen.items()}
    calls["torch reads it once"] = partial(read_once, sent)
    taken = harness.interleave_calls(calls, repeats=read.repeats, warm_ups=2)
    taken |= harness.interleave_calls(
        {"loop over rows": partial(naive, sent, read.rows)}, repeats=2, warm_ups=0
    )
    bandwidth = sent_bytes / min(t.cpu for t in taken["torch reads it once"])
    times = [line(name, seconds, sent_bytes, bandwidth) for name, seconds in taken.items()]
    del sent, calls
    memory = [
        [str(clients)]
        + [
            figure(
                harness.peak_growth_mib(
                    partial(fold, one, uploads(clients, **shape, distinct=POOL), read.rows)
                )
            )
            for one in chosen.values()
        ]
        for clients in read.memory_clients
    ]
    harness.save(
        "aggregation",
        settings=shape
        | {"clients": read.clients, "repeats": read.repeats, "sent_mib": sent_bytes / 2**20},
        samples={name: [vars(t) for t in seconds] for name, seconds in taken.items()},
        tables={
            "times": Table(
                columns=("side", "CPU, ms", "GB/s of sent scores", "% of read bandwidth"),
                rows=times,
            ),
            "memory": Table(
                columns=("clients", *(f"{name}: peak growth, MiB" for name in chosen)), rows=memory
            ),
        },
        packages={"fedkd": harness.versions(("fedkd", "torch"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
