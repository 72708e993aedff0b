"""The job on Flower's own simulation runtime (Ray).

    python -m bench.peers.flower --model mlp --rounds 10

Trap: a ClientApp that lives in ``__main__`` or in a closure is pickled by value with all that it
touches, here every client's data in every message, and a round takes seven times as long. So the
apps below are taken from this file as an importable module, and workers find the data themselves.
Trap: the first round (10 to 20 s) starts Ray's actors, each of which imports torch; it is
reported apart, as the first round of every side is.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from bench import job, networks

client_app, server_app = ClientApp(), ServerApp()


@cache
def everybodys_data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return all clients' examples, once a process: Flower's actors serve any client."""
    torch.set_num_threads(job.threads())
    return [networks.tensors(client) for client in range(job.CLIENTS)]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    data = everybodys_data()
    inputs, labels = data[int(context.node_config["partition-id"])]
    net = networks.network(os.environ["BENCH_MODEL"])
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    networks.train(net, networks.shuffled(inputs, labels))
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    model, clock = os.environ["BENCH_MODEL"], job.Clock()
    latest: dict[str, Any] = {}

    def after_round(number: int, arrays: ArrayRecord) -> MetricRecord:
        clock.tick() if number else clock.start()
        latest["arrays"] = arrays
        return MetricRecord({"round": number})

    FedAvg(fraction_evaluate=0.0, min_available_nodes=job.CLIENTS).start(
        grid=grid,
        initial_arrays=ArrayRecord(networks.network(model).state_dict()),
        num_rounds=int(os.environ["BENCH_ROUNDS"]),
        evaluate_fn=after_round,
    )
    net = networks.network(model)
    net.load_state_dict(latest["arrays"].to_torch_state_dict())
    job.report(clock.rounds, accuracy=networks.accuracy(net))


def main() -> None:
    from bench.peers import flower  # importable, where this module is called __main__

    options = job.read_options()
    os.environ |= {"BENCH_MODEL": options.model, "BENCH_ROUNDS": str(options.rounds)}
    cores = os.cpu_count() or 1
    run_simulation(
        server_app=flower.server_app,
        client_app=flower.client_app,
        num_supernodes=job.CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {"num_cpus": cores, "logging_level": "ERROR"},
        },
    )


if __name__ == "__main__":
    main()
