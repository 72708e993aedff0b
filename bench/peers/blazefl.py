"""The job on BlazeFL 3, one client after another, which is the fastest of its modes on a GIL build.

    python -m bench.peers.blazefl --model mlp --rounds 10

Trap: it needs Python 3.14, and its threads pay only on a free-threaded build; its process mode
makes a new pool of processes every round.
"""

from __future__ import annotations

import torch
from blazefl.contrib import FedAvgBaseClientTrainer, FedAvgBaseServerHandler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench import job, networks


class Data:
    """What BlazeFL asks for data sets and batches."""

    def __init__(self) -> None:
        self._clients = [TensorDataset(*networks.tensors(c)) for c in range(job.CLIENTS)]
        self._test = TensorDataset(*map(torch.from_numpy, job.test_examples()))

    def get_dataset(self, type_: str, cid: int | None) -> TensorDataset:
        """Return a client's examples, or the test set."""
        return self._test if cid is None else self._clients[cid]

    def set_dataset(self, type_: str, cid: int | None, dataset: TensorDataset) -> None:
        """Refuse: nothing in the job calls it."""
        raise NotImplementedError("the job's data sets do not change")

    def get_dataloader(
        self, type_: str, cid: int | None, batch_size: int | None, generator: torch.Generator | None
    ) -> DataLoader:
        """Return shuffled batches."""
        data = self.get_dataset(type_, cid)
        return DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)


class Selector:
    """What BlazeFL asks for models."""

    def select_model(self, model_name: str) -> nn.Module:
        """Return a fresh network."""
        return networks.network(model_name)


def main() -> None:
    torch.set_num_threads(job.threads())
    options, data = job.read_options(), Data()
    common = {
        "model_selector": Selector(),
        "model_name": options.model,
        "dataset": data,
        "num_clients": job.CLIENTS,
        "device": "cpu",
        "seed": 0,
    }
    server = FedAvgBaseServerHandler(
        global_round=options.rounds, sample_ratio=1.0, batch_size=job.TEST_ROWS, **common
    )
    trainer = FedAvgBaseClientTrainer(epochs=1, lr=job.RATE, batch_size=job.BATCH, **common)
    clock = job.Clock()
    while not server.is_stopped():
        trainer.local_process(server.downlink_package(), server.sample_clients())
        for package in trainer.uplink_package():
            server.load(package)
        clock.tick()
    job.report(clock.rounds, accuracy=networks.accuracy(server.model))


if __name__ == "__main__":
    main()
