"""What the in-process grid costs: a round of ten clients, asked over Flower messages and directly.

Both sides run in this process, interleaved, on fleets that are exact twins: 1,000 proxy rows, ten
classes, a consensus down and knowledge up. Prints the median time of each, their difference a
message, and their ratio.

    python bench/grid_overhead.py [pairs]
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from fedkd_clients.app import build_app, fleet_in_memory
from fedkd_server.exchange import Exchange
from flwr.supercore.task_identity import TaskIdentity

from fedkd.compose import compose
from fedkd.data.federation import external_rows, load
from fedkd.scenario import to_json
from fedkd.transport.inprocess import InProcessGrid
from fedkd.transport.messages import Action, Request
from fedkd.types import Consensus, ProxySet, ProxySource, Space

PAIRS, CLIENTS = 30, 10


def main() -> None:
    torch.set_num_threads(1)
    words = (
        "scenario=iid data=digits models=mlp clients=10 method=fedmd proxy=external proxy.size=1000"
    )
    scenario = compose(words.split())
    arrays, rows = load(scenario.data), external_rows(scenario.layout())
    proxy = ProxySet(
        inputs=torch.from_numpy(arrays.train_inputs[rows]),
        ids=torch.from_numpy(rows),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    consensus = Consensus(
        rows=torch.arange(len(rows)),
        scores=torch.full((len(rows), 10), 0.1),
        space=Space.PROBS,
        temperature=3.0,
        keepers=None,
    )
    direct, behind_grid = fleet_in_memory(scenario), fleet_in_memory(scenario)
    app = build_app(lambda _: behind_grid)
    grid = InProcessGrid(app, n_clients=CLIENTS, scenario_json=to_json(scenario))
    TaskIdentity.task_id = TaskIdentity.run_id = grid.run.run_id
    TaskIdentity.node_id = 0
    exchange = Exchange(grid, n_clients=CLIENTS)

    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    times: dict[str, list[float]] = {"direct": [], "grid": []}
    for n in range(pairs + 5):
        requests = [
            Request(
                action=Action.ROUND,
                client=client,
                round=n + 1,
                incoming=consensus,
                proxy=proxy if n == 0 else None,
            )
            for client in range(CLIENTS)
        ]
        started = time.perf_counter()
        for request in requests:
            direct.handle([request])
        halfway = time.perf_counter()
        answers = exchange.ask(requests)
        ended = time.perf_counter()
        if answers.failures:
            raise SystemExit(f"a client failed: {answers.failures}")
        if n >= 5:
            times["direct"].append((halfway - started) / CLIENTS)
            times["grid"].append((ended - halfway) / CLIENTS)
    direct_ms, grid_ms = (1e3 * statistics.median(times[side]) for side in ("direct", "grid"))
    differences = [b - a for a, b in zip(times["direct"], times["grid"], strict=True)]
    print(f"direct {direct_ms:.2f} ms   over the grid {grid_ms:.2f} ms   a message ({pairs} pairs)")
    print(f"added a message: median {1e3 * statistics.median(differences):.2f} ms")
    print(f"ratio grid / direct: {grid_ms / direct_ms:.3f}")


if __name__ == "__main__":
    main()
