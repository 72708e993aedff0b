"""The job on pfl-research (Apple), in one process or, by torchrun, in one a core.

    torchrun --standalone --nproc-per-node 2 -m bench.peers.pfl --model mlp --rounds 10

Trap: iteration 0 evaluates every user before and after training, whatever
``evaluation_frequency`` says. It is this side's first round, which is reported apart for all sides.
"""

from __future__ import annotations

import logging
import os
from types import MethodType
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.dataset import Dataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from bench import job, networks


def _loss(self: nn.Module, inputs: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
    self.train(not eval)
    return nn.functional.cross_entropy(self(inputs), labels)


def _metrics(
    self: nn.Module, inputs: Tensor, labels: Tensor, eval: bool = False
) -> dict[str, Weighted]:
    loss = nn.functional.cross_entropy(self(inputs), labels)
    return {"loss": Weighted(float(loss) * len(labels), len(labels))}


class Timing(TrainingProcessCallback):
    """Takes the time of central iterations."""

    def __init__(self) -> None:
        self.clock = job.Clock()

    def on_train_begin(self, *, model: Any) -> Metrics:
        """Begin the first round."""
        self.clock.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """End a round, and go on."""
        self.clock.tick()
        return False, Metrics()


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(job.threads())
    options = job.read_options()
    data = [networks.tensors(client) for client in range(job.CLIENTS)]
    net = networks.network(options.model)
    net.loss, net.metrics = MethodType(_loss, net), MethodType(_metrics, net)
    users = FederatedDataset(
        lambda user: Dataset(raw_data=list(data[user]), user_id=str(user)),
        get_user_sampler("minimize_reuse", list(range(job.CLIENTS))),
    )
    timing = Timing()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=options.rounds,
            evaluation_frequency=10**6,
            train_cohort_size=job.CLIENTS,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=users, val_data=None, postprocessors=[WeightByDatapoints()]
        ),
        model=PyTorchModel(
            net,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=job.RATE, local_batch_size=job.BATCH
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[timing],
    )
    if os.environ.get("RANK", "0") == "0":
        job.report(timing.clock.rounds, accuracy=networks.accuracy(net))


if __name__ == "__main__":
    main()
