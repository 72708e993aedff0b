"""The job on FedLab 1.3, whose trainer runs clients one after another in one process.

python -m bench.peers.fedlab --model mlp --rounds 10
"""

from __future__ import annotations

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from torch.utils.data import DataLoader, TensorDataset

from bench import job, networks


class Loaders:
    """What FedLab asks for batches."""

    def __init__(self) -> None:
        self._sets = [TensorDataset(*networks.tensors(client)) for client in range(job.CLIENTS)]

    def get_dataloader(self, client: int, batch_size: int) -> DataLoader:
        """Return shuffled batches of a client's examples."""
        return DataLoader(self._sets[client], batch_size=batch_size, shuffle=True)


def main() -> None:
    torch.set_num_threads(job.threads())
    options = job.read_options()
    trainer = SGDSerialClientTrainer(networks.network(options.model), job.CLIENTS, cuda=False)
    trainer.setup_dataset(Loaders())
    trainer.setup_optim(1, job.BATCH, job.RATE)
    server = SyncServerHandler(networks.network(options.model), options.rounds, 1.0, cuda=False)
    server.num_clients = job.CLIENTS
    clock = job.Clock()
    for _ in range(options.rounds):
        trainer.local_process(server.downlink_package, server.sample_clients())
        for package in trainer.uplink_package:
            server.load(package)
        clock.tick()
    job.report(clock.rounds, accuracy=networks.accuracy(server.model))


if __name__ == "__main__":
    main()
