"""Federated distillation as one plain PyTorch script: a module, an optimizer, DataLoaders.

    python -m bench.plain.distillation FEDERATION.npz --filter kmeans --rounds 20 [--measure-last]

With ``--filter kmeans`` it is EdgeFD as fedkd's defaults have it, with ``all`` FedMD; the network,
the losses, the steps of a round and what is measured are the same, written without fedkd. Every
client keeps its model and its Adam; private and proxy batches are interleaved; proxy rows nobody
kept are dropped. ``bench/federation.py`` writes the file, so that both sides hold the same rows.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from bench.job import report

BATCH, RATE, TEMPERATURE, CE_WEIGHT = 64, 1e-3, 3.0, 0.5
CLUSTERS_PER_CLASS, QUANTILE, HELD_OUT, COMPONENTS = 10, 0.5, 0.1, 50
PREDICTION_BATCH = 512


class SmallCNN(nn.Module):
    """fedkd's ``cnn_small``: strided convolutions with 16 and 32 channels, 64 hidden units."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        height, width = (math.ceil(side / 4) for side in shape[1:])
        self.conv1 = nn.Conv2d(shape[0], 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * height * width, 64)
        self.fc2 = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]``."""
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x)).flatten(1)
        return self.fc2(functional.relu(self.fc1(x)))


@dataclass
class Client:
    """One client's data, model and optimizer."""

    train: TensorDataset
    local_test: TensorDataset
    contributed: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer


@dataclass
class Federation:
    """All clients, the proxy set they contributed to, and the test set."""

    clients: list[Client]
    proxy: Tensor
    proxy_labels: Tensor
    owner: Tensor
    test: TensorDataset


def read(path: str, *, seed: int) -> Federation:
    """Read a federation and give every client a fresh model."""
    stored = np.load(path)
    inputs = torch.from_numpy(stored["inputs"]).float() / 255
    labels = torch.from_numpy(stored["labels"])
    n_classes = int(labels.max()) + 1
    torch.manual_seed(seed)
    clients, rows, owners = [], [], []
    for n in range(int(stored["clients"])):
        train, local = stored[f"train_{n}"], stored[f"local_test_{n}"]
        contributed = torch.from_numpy(stored[f"contributed_{n}"])
        model = SmallCNN(inputs.shape[1:], n_classes)
        clients.append(
            Client(
                train=TensorDataset(inputs[train], labels[train]),
                local_test=TensorDataset(inputs[local], labels[local]),
                contributed=contributed,
                model=model,
                optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
            )
        )
        rows.append(torch.from_numpy(train)[contributed])
        owners.append(torch.full((len(contributed),), n))
    shared = torch.cat(rows)
    test_inputs = torch.from_numpy(stored["test_inputs"]).float() / 255
    return Federation(
        clients=clients,
        proxy=inputs[shared],
        proxy_labels=labels[shared],
        owner=torch.cat(owners),
        test=TensorDataset(test_inputs, torch.from_numpy(stored["test_labels"])),
    )


def kept_rows(federation: Federation, *, filter: str, seed: int) -> list[Tensor]:
    """Return the proxy rows each client speaks about: once, since its data does not change."""
    if filter == "all":
        return [torch.arange(len(federation.proxy)) for _ in federation.clients]
    from sklearn.cluster import KMeans  # FedMD does without
    from sklearn.decomposition import PCA

    flat = federation.proxy.flatten(1).numpy()
    mean, scale = flat.mean(axis=0), flat.std(axis=0)
    scale = float(np.sqrt(np.mean(scale**2)))
    pca = PCA(COMPONENTS, random_state=0).fit((flat - mean) / scale)
    proxy = pca.transform((flat - mean) / scale)
    draw = np.random.default_rng(seed)
    kept = []
    for n, client in enumerate(federation.clients):
        inputs, labels = client.train.tensors
        private = pca.transform((inputs.flatten(1).numpy() - mean) / scale)
        free = np.setdiff1d(np.arange(len(private)), client.contributed.numpy())
        held_out = draw.permutation(free)[: round(HELD_OUT * len(free))]
        fitted = np.delete(private, held_out, axis=0)
        wanted = CLUSTERS_PER_CLASS * len(labels.unique())
        k = max(2, min(wanted, len(fitted) // 20))
        clusters = KMeans(k, n_init=1, random_state=seed).fit(fitted)
        threshold = np.quantile(clusters.transform(private[held_out]).min(axis=1), QUANTILE)
        near = torch.from_numpy(clusters.transform(proxy).min(axis=1) <= threshold)
        kept.append(torch.nonzero(near | (federation.owner == n)).flatten())
    return kept


def forever(loader: DataLoader) -> Iterator[Any]:
    """Yield batches for ever."""
    while True:
        yield from loader


def train_round(client: Client, lesson: TensorDataset | None) -> None:
    """Train on the client's own examples and, if there is one, on the consensus."""
    model, optimizer = client.model, client.optimizer
    own = DataLoader(client.train, batch_size=BATCH, shuffle=True)
    model.train()
    if lesson is None:
        for inputs, labels in own:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        return
    shared = DataLoader(lesson, batch_size=BATCH, shuffle=True)
    steps = max(len(own), len(shared))
    for _, (inputs, labels), (asked, taught) in zip(
        range(steps), forever(own), forever(shared), strict=False
    ):
        optimizer.zero_grad()
        loss = CE_WEIGHT * functional.cross_entropy(model(inputs), labels)
        (loss + distillation_loss(model(asked), taught)).backward()
        optimizer.step()


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Return the KL divergence to the consensus, softened."""
    student = functional.log_softmax(logits / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * functional.kl_div(student, taught, reduction="batchmean")


def distil(client: Client, lesson: TensorDataset) -> None:
    """Take one pass over the consensus alone."""
    client.model.train()
    for asked, taught in DataLoader(lesson, batch_size=BATCH, shuffle=True):
        client.optimizer.zero_grad()
        distillation_loss(client.model(asked), taught).backward()
        client.optimizer.step()


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return logits in large batches."""
    model.eval()
    return torch.cat([model(part) for part in inputs.split(PREDICTION_BATCH)])


def accuracy(model: nn.Module, examples: TensorDataset) -> float:
    """Return the share of examples that a model gets right."""
    inputs, labels = examples.tensors
    if len(labels) == 0:
        return math.nan
    return float((logits_of(model, inputs).argmax(dim=1) == labels).float().mean())


def consensus(federation: Federation, kept: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rows that somebody kept, and the mean of their keepers' softened scores."""
    sums: Tensor | None = None
    keepers = torch.zeros(len(federation.proxy))
    for client, rows in zip(federation.clients, kept, strict=True):
        logits = logits_of(client.model, federation.proxy[rows])
        scores = functional.softmax(logits / TEMPERATURE, dim=1)
        if sums is None:
            sums = torch.zeros(len(federation.proxy), scores.shape[1])
        sums[rows] += scores
        keepers[rows] += 1
    rows = torch.nonzero(keepers).flatten()
    if sums is None:
        raise ValueError("there is no client")
    return rows, sums[rows] / keepers[rows, None]


def mean_accuracy(federation: Federation, clients: list[Client]) -> float:
    """Return the clients' mean accuracy on the test set."""
    return float(np.mean([accuracy(client.model, federation.test) for client in clients]))


def run(federation: Federation, *, filter: str, seed: int, rounds: int, every: bool) -> None:
    """Run all rounds and report."""
    seconds: list[float] = []
    kept: list[Tensor] = []
    lesson: TensorDataset | None = None
    found: dict[str, float] = {}
    for n in range(1, rounds + 1):
        started = time.perf_counter()
        for client in federation.clients:
            train_round(client, lesson)
        if not kept:
            kept = kept_rows(federation, filter=filter, seed=seed)
        rows, scores = consensus(federation, kept)
        lesson = TensorDataset(federation.proxy[rows], scores)
        right = scores.argmax(dim=1) == federation.proxy_labels[rows]
        found["teacher_accuracy"] = float(right.float().mean())
        seconds.append(time.perf_counter() - started)
        if every or n == rounds:
            found["accuracy_mean"] = mean_accuracy(federation, federation.clients)
            found["accuracy_local_mean"] = float(
                np.nanmean([accuracy(c.model, c.local_test) for c in federation.clients])
            )
    if lesson is not None:
        copies = copy.deepcopy(federation.clients)
        for client in copies:
            distil(client, lesson)
        found["accuracy_distilled_mean"] = mean_accuracy(federation, copies)
    report(seconds, accuracy=found["accuracy_mean"], **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("federation")
    parser.add_argument("--filter", choices=["all", "kmeans"], default="kmeans")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure-last", action="store_true", help="only after the last round")
    parsed = parser.parse_args()
    federation = read(parsed.federation, seed=parsed.seed)
    run(
        federation,
        filter=parsed.filter,
        seed=parsed.seed,
        rounds=parsed.rounds,
        every=not parsed.measure_last,
    )


if __name__ == "__main__":
    main()
