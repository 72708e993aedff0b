"""FedAvg over many tiny models as a plain loop: a module and SGD a client, in a process a core.

    python -m bench.plain.small_models DATA.npz --clients 1000 --rounds 5

Processes are forked once, hold their clients' tensors, and send back one sum of parameters a round.
"""

from __future__ import annotations

import argparse
import os
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bench import job, networks

COLUMNS, HIDDEN = 64, 32
Shard = list[tuple[Tensor, Tensor]]


def small_mlp() -> nn.Sequential:
    """Return 64-32-10, 2,410 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(COLUMNS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, job.CLASSES)
    )


def work(pipe: Connection, shard: Shard) -> None:
    """Train this process's clients whenever parameters arrive; answer with the sum of theirs."""
    torch.set_num_threads(1)
    net = small_mlp()
    while (start := pipe.recv()) is not None:
        vector, total = torch.from_numpy(start), torch.zeros(len(start))
        for inputs, labels in shard:
            with torch.no_grad():
                vector_to_parameters(vector.clone(), net.parameters())
            networks.train(net, networks.shuffled(inputs, labels))
            total += parameters_to_vector(net.parameters()).detach()
        pipe.send(total.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    read = parser.parse_args()
    torch.set_num_threads(1)
    stored = np.load(read.data)
    inputs = torch.from_numpy(stored["x_train"]).chunk(read.clients)
    labels = torch.from_numpy(stored["y_train"]).chunk(read.clients)
    clients = list(zip(inputs, labels, strict=True))
    context, pipes, workers = get_context("fork"), [], os.cpu_count() or 1
    for n in range(workers):
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(theirs, clients[n::workers]), daemon=True).start()
        pipes.append(ours)
    torch.manual_seed(0)
    net = small_mlp()
    clock = job.Clock()
    for _ in range(read.rounds):
        start = parameters_to_vector(net.parameters()).detach().numpy()
        for pipe in pipes:
            pipe.send(start)
        mean = sum(pipe.recv() for pipe in pipes) / read.clients
        vector_to_parameters(torch.from_numpy(mean), net.parameters())
        clock.tick()
    for pipe in pipes:
        pipe.send(None)
    with torch.no_grad():
        right = net(torch.from_numpy(stored["x_test"])).argmax(dim=1).numpy() == stored["y_test"]
    job.report(clock.rounds, accuracy=right.mean())


if __name__ == "__main__":
    main()
