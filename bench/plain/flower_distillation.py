"""FedMD as a competent user would write it on Flower: a ClientApp, a ServerApp, Ray.

    BENCH_FEDERATION=FEDERATION.npz BENCH_ROUNDS=6 python -m bench.plain.flower_distillation

The network, the training step and the losses are those of ``bench/plain/distillation.py``. A
client's model and Adam live in ``context.state``, which is where Flower keeps them between rounds;
data and the public proxy set are read once a process and never travel; the consensus goes down and
the softened scores come up as arrays. As in ``bench/peers/flower.py``, the apps are taken from an
importable module, since a ClientApp of ``__main__`` is pickled with all that it touches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from bench import job
from bench.plain import distillation
from bench.plain.distillation import Client, Federation

client_app, server_app = ClientApp(), ServerApp()


@cache
def federation() -> Federation:
    """Return everybody's data and fresh models, once a process."""
    torch.set_num_threads(job.threads())
    return distillation.read(os.environ["BENCH_FEDERATION"], seed=0)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    client = federation().clients[int(context.node_config["partition-id"])]
    restore(client, context)
    lesson = None
    if "consensus" in message.content:
        taught = tensor_of(message.content["consensus"], "scores")
        lesson = TensorDataset(federation().proxy, taught)
    distillation.train_round(client, lesson)
    keep(client, context)
    logits = distillation.logits_of(client.model, federation().proxy)
    scores = functional.softmax(logits / distillation.TEMPERATURE, dim=1)
    return Message(content=RecordDict({"knowledge": record({"scores": scores})}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    client = federation().clients[int(context.node_config["partition-id"])]
    restore(client, context)
    found = torch.tensor([distillation.accuracy(client.model, federation().test)])
    return Message(content=RecordDict({"measured": record({"accuracy": found})}), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    nodes = wait_for(grid, int(os.environ["BENCH_CLIENTS"]))
    clock, down = job.Clock(), RecordDict()
    for _ in range(int(os.environ["BENCH_ROUNDS"])):
        total = torch.zeros(())
        for reply in ask(grid, nodes, "train", down):
            total = total + tensor_of(reply.content["knowledge"], "scores")
        down = RecordDict({"consensus": record({"scores": total / len(nodes)})})
        clock.tick()
    measured = [
        float(tensor_of(reply.content["measured"], "accuracy"))
        for reply in ask(grid, nodes, "evaluate", RecordDict())
    ]
    job.report(clock.rounds, accuracy=sum(measured) / len(measured))


def wait_for(grid: Grid, clients: int) -> list[int]:
    """Return the node ids, once all are there."""
    while len(nodes := list(grid.get_node_ids())) < clients:
        pass
    return nodes


def ask(grid: Grid, nodes: list[int], kind: str, content: RecordDict) -> Iterator[Message]:
    """Send the same to everybody and yield the replies."""
    messages = [Message(content, dst_node_id=node, message_type=kind) for node in nodes]
    for reply in grid.send_and_receive(messages):
        if reply.has_error():
            raise RuntimeError(f"a client failed: {reply.error}")
        yield reply


def record(tensors: dict[str, Tensor]) -> ArrayRecord:
    """Return tensors as Flower carries them."""
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in tensors.items()})


def tensor_of(arrays: ArrayRecord, name: str) -> Tensor:
    """Return one tensor of a record."""
    return torch.tensor(arrays[name].numpy())


def keep(client: Client, context: Context) -> None:
    """Put a client's model and Adam into its context."""
    context.state["model"] = ArrayRecord(client.model.state_dict())
    moments = client.optimizer.state_dict()["state"]
    context.state["adam"] = record(
        {f"{n}.{name}": value for n, state in moments.items() for name, value in state.items()}
    )


def restore(client: Client, context: Context) -> None:
    """Take a client's model and Adam out of its context, if it has been trained before."""
    if "model" not in context.state:
        return
    client.model.load_state_dict(context.state["model"].to_torch_state_dict())
    moments: dict[int, dict[str, Tensor]] = {}
    for key in context.state["adam"]:
        n, name = key.split(".")
        moments.setdefault(int(n), {})[name] = tensor_of(context.state["adam"], key)
    groups = client.optimizer.state_dict()["param_groups"]
    client.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def main() -> None:
    from bench.plain import flower_distillation  # importable, where this module is __main__

    cores = os.cpu_count() or 1
    run_simulation(
        server_app=flower_distillation.server_app,
        client_app=flower_distillation.client_app,
        num_supernodes=int(os.environ["BENCH_CLIENTS"]),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {"num_cpus": cores, "logging_level": "ERROR"},
        },
    )


if __name__ == "__main__":
    main()
