"""Executors by model and number of clients as a share of GEMM peak; what predicting less saves.

    python -m bench.executors [--models mlp cnn_small ...] [--clients 10 100] [--repeats 5]

One process, one thread. Every client trains one epoch of SGD without momentum through the executors
themselves, in the blocks that fedkd's table takes: on 60 examples in batches of 20, the peers'
job, and, for the least number of clients, on 128 in batches of 64, fedkd's default. Images are
``uint8``, as in the shipped data sets. Arithmetic is counted by torch on a real step, and its rate
is held against that of a float32 matrix product, 1024 x 1024, timed in turn with the executors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import harness, job, networks
from bench.harness import Seconds, Table, figure, least_and_median, pair, ratios
from bench.plain.small_models import COLUMNS, HIDDEN, small_mlp
from fedkd.models.base import models
from fedkd.tasks import Classification
from fedkd.training.executors.choice import EXECUTORS, Choice, cached_block, choose
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing
from fedkd.training.quickening import quickened
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Examples, predict_rows

RECIPE = Training(
    optimizer=OptimizerName.SGD, momentum=0, learning_rate=job.RATE, batch_size=job.BATCH
)
LARGER = 64, 128
"""Another batch size, and the examples of a client then."""
MOST_FLOPS = 4.5e10
"""Of one epoch of all clients; more clients than that are not timed."""
SIDE, PRODUCTS = 1024, 4
KEEPS, ASKED = (0.5, 0.25, 0.1), 0.1
"""Shares of the proxy rows that a client's filter keeps, and that a round asks about."""
BATCHES = (8, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model and what it reads."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]

    def inputs(self, n: int, draw: torch.Generator) -> Tensor:
        """Return random inputs: rows of a table, or images."""
        if len(self.shape) == 1:
            return torch.randn(n, *self.shape, generator=draw)
        return torch.randint(0, 256, (n, *self.shape), generator=draw, dtype=torch.uint8)


def large_resnet8() -> nn.Module:
    """Return fedkd's ``resnet8`` for 32 x 32 colour images that it does not halve at first.

    So it has 74 MFLOP a training example, as the residual networks of others have.
    """
    module = models.get("resnet8")().build((3, 32, 32), job.CLASSES)
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    first.stride = (1, 1)
    return module


def known() -> dict[str, Network]:
    """Return what can be timed: the benchmarks' own networks and every shipped model of images."""
    image = (1, job.SIDE, job.SIDE)
    own = [
        Network(name=f"mlp {COLUMNS}-{HIDDEN}-{job.CLASSES}", shape=(COLUMNS,), make=small_mlp),
        Network(name="peers' cnn", shape=image, make=networks.cnn),
    ]
    shipped = [
        Network(name=name, shape=image, make=partial(models.get(name)().build, image, job.CLASSES))
        for name in models.names()
        if not models.get(name).tokens
    ]
    large = Network(name="resnet8, whole 32 x 32", shape=(3, 32, 32), make=large_resnet8)
    return {one.name: one for one in [*own, *shipped, large]}


def jobs_of(
    network: Network, clients: int, *, batch: int = job.BATCH, rows: int = job.ROWS
) -> list[Job]:
    """Return an epoch of every client, each on examples of its own."""
    draw = torch.Generator().manual_seed(1)
    return [
        Job(
            private=Examples(
                inputs=network.inputs(rows, draw),
                labels=torch.randint(0, job.CLASSES, (rows,), generator=draw),
            ),
            lesson=None,
            recipe=replace(RECIPE, batch_size=batch),
            task=Classification(job.CLASSES),
            order=torch.Generator().manual_seed(client),
        )
        for client in range(clients)
    ]


def flops_per_example(module: nn.Module, one: Job) -> float:
    """Return the arithmetic of a training example, forward and backward, as torch counts it."""
    with FlopCounterMode(display=False) as counter:
        step = next(one.schedule())
        one.loss(module, step).backward()
    return counter.get_total_flops() / one.recipe.batch_size


def epoch(name: str, start: Tensor, jobs: Sequence[Job], *, packing: Packing, block: int) -> None:
    """Train all clients once from where they started, as a learner does: on copies, by block."""
    for at in range(0, len(jobs), block):
        some = jobs[at : at + block]
        rows = packing.room(len(some), like=start).copy_(start[at : at + block])
        EXECUTORS[name].train(rows, some, packing=packing)


def by_mkl(matrix: Tensor) -> None:
    """Multiply as torch does."""
    for _ in range(PRODUCTS):
        torch.mm(matrix, matrix)


def by_onednn(matrix: Tensor) -> None:
    """Multiply as torch's convolutions do."""
    for _ in range(PRODUCTS):
        torch.ops.mkldnn._linear_pointwise(matrix, matrix, None, "none", [], "")


PEAKS: dict[str, Callable[[Tensor], None]] = {"GEMM, MKL": by_mkl}
"""The fastest one is as well as torch can use the machine."""
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    PEAKS["GEMM, oneDNN"] = by_onednn


def train(network: Network, jobs: Sequence[Job], *, repeats: int) -> dict[str, Any] | None:
    """Time every executor that can train the network; None when it would take too long."""
    torch.manual_seed(0)
    module, clients = network.make(), len(jobs)
    packing = Packing(module, RECIPE)
    flops = flops_per_example(module, jobs[0]) * len(jobs[0].private) * clients
    if flops > MOST_FLOPS:
        return None
    start = torch.zeros(clients, packing.width)
    packing.write(start[0], module)
    start[1:] = start[0]
    square = torch.randn(SIDE, SIDE)
    calls: dict[str, Callable[[], object]] = {k: partial(f, square) for k, f in PEAKS.items()}
    for name, one in EXECUTORS.items():
        if one.fits(module):
            block = cached_block(packing.size) if name == "stacked" else one.in_step
            calls[name] = partial(epoch, name, start, jobs, packing=packing, block=block)
    taken = harness.interleave_calls(calls, repeats=repeats, warm_ups=2)
    return {
        "network": network.name,
        "clients": clients,
        "batch": jobs[0].recipe.batch_size,
        "flops": flops,
        "chosen": vars(choose(module, device=torch.device("cpu"))),
        "block": min(clients, cached_block(packing.size)),
        "seconds": {name: [vars(t) for t in spent] for name, spent in taken.items()},
    }


def trainings(network: Network, clients: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Time the peers' job by number of clients, and larger batches for the least."""
    batch, rows = LARGER
    sizes = [jobs_of(network, n) for n in clients]
    sizes.append(jobs_of(network, min(clients), batch=batch, rows=rows))
    tried = [train(network, jobs, repeats=repeats) for jobs in sizes]
    return [found for found in tried if found is not None]


def training_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return a line for each executor of one network and number of clients."""
    cpu = {name: [t["cpu"] for t in spent] for name, spent in found["seconds"].items()}
    peak = PRODUCTS * 2 * SIDE**3 / min(least for name in PEAKS for least in cpu.pop(name))
    lines: list[list[str]] = []
    for name, spent in cpu.items():
        each = least_and_median(1e3 * seconds / found["clients"] for seconds in spent)
        rate = {key: 1e3 * found["flops"] / found["clients"] / ms for key, ms in each.items()}
        lines.append(
            [
                found["network"],
                str(found["clients"]),
                str(found["batch"]),
                f"{name}, block {found['block']}" if name == "stacked" else name,
                "yes" if name == found["chosen"]["executor"] else "",
                pair(each),
                pair(ratios(cpu["serial"], spent)),
                pair({key: 100 * value / peak for key, value in rate.items()}),
            ]
        )
    return lines


def ways(n_rows: int) -> dict[str, Tensor]:
    """Return the proxy rows of a forward pass, by what chose them."""
    draw = torch.Generator().manual_seed(2)
    asked = torch.rand(n_rows, generator=draw) < ASKED
    found = {"all rows, filtered afterwards": torch.arange(n_rows)}
    for keep in KEEPS:
        kept = torch.rand(n_rows, generator=draw) < keep
        found[f"the filter keeps {keep:g}"] = kept.nonzero().flatten()
    found[f"rows_per_round: {ASKED:g} of them"] = asked.nonzero().flatten()
    both = asked & (torch.rand(n_rows, generator=draw) < KEEPS[1])
    found[f"rows_per_round {ASKED:g}, the filter keeps {KEEPS[1]:g}"] = both.nonzero().flatten()
    return found


def timed_prediction(
    network: Network, rows: Mapping[str, tuple[Tensor, int]], *, n_rows: int, repeats: int
) -> dict[str, list[Seconds]]:
    """Time forward passes over some proxy rows, each in a batch of its own."""
    module = network.make()
    row = torch.zeros(Packing(module, RECIPE).width)
    Packing(module, RECIPE).write(row, module)
    desk = quickened(Packing(module, RECIPE).module(row), trained=False)
    inputs = network.inputs(n_rows, torch.Generator().manual_seed(3))
    calls = {
        name: partial(predict_rows, desk, inputs, some, rows_per_input=1, batch=batch)
        for name, (some, batch) in rows.items()
    }
    return harness.interleave_calls(calls, repeats=repeats, warm_ups=2)


def predict(network: Network, n_rows: int, *, repeats: int) -> dict[str, Any]:
    """Time what filters and subsets save, and batches."""
    choice = chosen(network)
    usual = {name: (rows, choice.prediction_batch) for name, rows in ways(n_rows).items()}
    everything = torch.arange(n_rows)
    by_batch = {str(batch): (everything, batch) for batch in BATCHES if batch <= n_rows}
    saved = timed_prediction(network, usual, n_rows=n_rows, repeats=repeats)
    batches = timed_prediction(network, by_batch, n_rows=n_rows, repeats=repeats)
    return {
        "network": network.name,
        "chosen": vars(choice),
        "rows": {name: len(rows) for name, (rows, _) in usual.items()},
        "saved": {name: [vars(t) for t in spent] for name, spent in saved.items()},
        "batches": {name: [vars(t) for t in spent] for name, spent in batches.items()},
    }


def chosen(network: Network) -> Choice:
    return choose(network.make(), device=torch.device("cpu"))


def prediction_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return a line for each way to choose rows."""
    cpu = {name: [t["cpu"] for t in spent] for name, spent in found["saved"].items()}
    first, *_ = cpu.values()
    return [
        [
            found["network"],
            name,
            str(found["rows"][name]),
            pair(least_and_median(1e3 * seconds for seconds in spent)),
            pair(ratios(spent, first)),
        ]
        for name, spent in cpu.items()
    ]


def batch_row(found: Mapping[str, Any], n_rows: int) -> list[str]:
    """Return the line of one network: microseconds an input by batch, the table's in bold."""
    cells: list[str] = []
    for batch in BATCHES:
        spent = found["batches"].get(str(batch))
        if spent is None:
            cells.append("")
            continue
        told = figure(min(1e6 * t["cpu"] / n_rows for t in spent))
        cells.append(f"**{told}**" if batch == found["chosen"]["prediction_batch"] else told)
    return [found["network"], *cells]


def main() -> None:
    networks_known = known()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=sorted(networks_known))
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--proxy-rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [networks_known[name] for name in read.models or networks_known]
    trained = [found for one in wanted for found in trainings(one, read.clients, read.repeats)]
    predicted = [predict(one, read.proxy_rows, repeats=read.repeats) for one in wanted]
    harness.save(
        "executors",
        settings={"examples": f"{job.ROWS} (batch {job.BATCH}) or {LARGER[1]} (batch {LARGER[0]})"}
        | {"repeats": read.repeats, "proxy_rows": read.proxy_rows},
        samples={"training": trained, "prediction": predicted},
        tables={
            "executors": Table(
                columns=(
                    *("model", "clients", "batch", "executor", "in the table"),
                    *("CPU ms a client", "serial / this", "% of one thread's GEMM peak"),
                ),
                rows=[line for found in trained for line in training_rows(found)],
            ),
            "prediction": Table(
                columns=("model", "what is predicted", "rows", "CPU ms a client", "/ all rows"),
                rows=[line for found in predicted for line in prediction_rows(found)],
            ),
            "batches": Table(
                columns=("µs an input, by batch", *map(str, BATCHES)),
                rows=[batch_row(found, read.proxy_rows) for found in predicted],
            ),
        },
        packages={"fedkd": harness.versions(("fedkd", "torch"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
