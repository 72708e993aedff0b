"""The two networks of the job, and the training step that a torch simulator's user would write."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench import job


def mlp() -> nn.Sequential:
    """Return 784-128-10, 101,770 parameters; the same as fedkd's ``mlp``."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(job.SIDE**2, 128), nn.ReLU(), nn.Linear(128, job.CLASSES)
    )


def cnn() -> nn.Sequential:
    """Return two 3 x 3 convolutions with pooling and 64 hidden units, 105,866 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (job.SIDE // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, job.CLASSES),
    )


def network(model: str) -> nn.Sequential:
    """Return a fresh network with the initial weights that all torch sides start from."""
    torch.manual_seed(0)
    return {"mlp": mlp, "cnn": cnn}[model]()


def tensors(client: int) -> tuple[Tensor, Tensor]:
    """Return a client's examples as tensors."""
    inputs, labels = job.client_examples(client)
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def train(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Take plain SGD steps over some batches."""
    optimizer = torch.optim.SGD(net.parameters(), lr=job.RATE)
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()


def shuffled(inputs: Tensor, labels: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield an epoch's batches by indexing, the fastest plain way to draw them."""
    for batch in torch.randperm(len(labels)).split(job.BATCH):
        yield inputs[batch], labels[batch]


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """Return the share of the test set that a network gets right."""
    inputs, labels = job.test_examples()
    net.eval()
    right = net(torch.from_numpy(inputs)).argmax(dim=1) == torch.from_numpy(labels)
    return float(right.float().mean())
