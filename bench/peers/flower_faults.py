"""What Flower's own aggregation and simulation do with each fault of ``bench.peer_faults``.

    python -m bench.peers.flower_faults aggregation|sampling|dead_actor|idle

Prints one JSON object. The apps live in an importable module, as Flower's actors need it.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from flwr.supercore.task_identity import TaskIdentity

SIZES = {"sampling": (10, 2), "dead_actor": (10, 5), "idle": (2, 2)}
"""Clients and rounds of each simulation."""
RESULT = "RESULT "
client_app, server_app = ClientApp(), ServerApp()


def averaged(parts: Sequence[tuple[dict[str, np.ndarray], float]]) -> dict[str, np.ndarray]:
    """Return what FedAvg makes of some clients' arrays and example counts."""
    replies: list[Message] = []
    for n, (arrays, examples) in enumerate(parts):
        question = Message(RecordDict(), n + 1, "train")
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
                "metrics": MetricRecord({"num-examples": examples}),
            }
        )
        replies.append(Message(content, reply_to=question))
    found, _ = FedAvg().aggregate_train(1, replies)
    return {} if found is None else {name: found[name].numpy() for name in found}


def aggregation() -> dict[str, Any]:
    """Return what becomes of each bad reply among good ones."""
    good = [({"w": np.full(3, value)}, 10.0) for value in (1.0, 2.0, 3.0)]
    bad = [({"w": np.full(3, np.nan)}, 10.0)]
    counts = {
        str(count): averaged([*good, ({"w": np.full(3, 100.0)}, count)])["w"].tolist()
        for count in (1e9, -5.0, float("nan"))
    }
    shapes = averaged([({"w": np.zeros(3)}, 10.0), ({"w": np.full(1, 6.0)}, 10.0)])
    sparse = averaged(
        [
            ({"index": np.array([0, 2]), "values": np.array([1.0, 3.0])}, 10.0),
            ({"index": np.array([1, 5]), "values": np.array([2.0, 6.0])}, 10.0),
        ]
    )
    return {
        "nan": averaged([*good, *bad])["w"].tolist(),
        "counts": counts,
        "shapes": shapes["w"].tolist(),
        "sparse": {name: value.tolist() for name, value in sparse.items()},
    }


@client_app.train()
def train(message: Message, context: Context) -> Message:
    client, mode = int(context.node_config["partition-id"]), os.environ["BENCH_FAULT"]
    n_round = int(message.content["config"]["server-round"])
    if mode == "dead_actor" and client == 3 and n_round == 2:
        marker = Path(os.environ["BENCH_MARKER"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    value = np.full(1, float(client))
    metrics = MetricRecord({"num-examples": 1.0, "client": float(client)})
    records = {"arrays": ArrayRecord({"w": Array(value)}), "metrics": metrics}
    return Message(RecordDict(records), reply_to=message)


class Watched(FedAvg):
    """FedAvg that notes who answered."""

    rounds: list[dict[str, Any]]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note who answered and when, then average as ever."""
        heard = list(replies)
        good = [m for m in heard if not m.has_error()]
        clients = sorted(int(m.content["metrics"]["client"]) for m in good)
        told: dict[str, Any] = {
            "clients": clients,
            "failed": len(heard) - len(good),
            "at": time.perf_counter(),
        }
        self.rounds.append(told)
        arrays, metrics = FedAvg.aggregate_train(self, server_round, heard)
        told["result"] = None if arrays is None else arrays["w"].numpy().tolist()
        return arrays, metrics


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    mode = os.environ["BENCH_FAULT"]
    n_clients, n_rounds = SIZES[mode]
    random.seed(1)
    np.random.seed(1)
    strategy = Watched(
        fraction_train=0.5 if mode == "sampling" else 1.0,
        fraction_evaluate=0.0,
        min_available_nodes=n_clients,
    )
    strategy.rounds = []
    begun = time.perf_counter()
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord({"w": Array(np.zeros(1))}), num_rounds=n_rounds
    )
    ends = [begun, *(told["at"] for told in strategy.rounds)]
    seconds = [round(after - before, 3) for before, after in itertools.pairwise(ends)]
    told = {"rounds": strategy.rounds, "seconds": seconds}
    print(RESULT + json.dumps(told), flush=True)


def main() -> None:
    from bench.peers import flower_faults  # importable, where this module is called __main__

    mode = sys.argv[1]
    if mode == "aggregation":
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        print(RESULT + json.dumps(aggregation()))
        return
    os.environ["BENCH_FAULT"] = mode
    run_simulation(
        server_app=flower_faults.server_app,
        client_app=flower_faults.client_app,
        num_supernodes=SIZES[mode][0],
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {"address": "local", "num_cpus": 2, "logging_level": "ERROR"},
        },
    )


if __name__ == "__main__":
    main()
