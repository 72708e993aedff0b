"""Clients whose data is easy to think about: one far-off Gaussian cloud a class."""

from collections.abc import Callable

import pytest
import torch

from fedkd.filters.base import ClientView

torch.set_num_threads(1)  # small tensors: threads cost more than they bring on a busy machine
N_CLASSES, N_COLUMNS, PER_CLASS, SHARED = 6, 4, 120, 24


def _one_class_split() -> list[ClientView]:
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    corners = 20.0 * torch.eye(N_CLASSES)[:, :N_COLUMNS]
    corners[-1] = 20.0
    rows = corners[labels] + torch.randn(len(labels), N_COLUMNS, generator=rng)
    contributed = torch.arange(len(labels)) % PER_CLASS < SHARED
    owner = labels[contributed]
    return [
        ClientView(
            private=rows[labels == client],
            contributed=contributed[labels == client],
            proxy=rows[contributed],
            own=owner == client,
            labels=labels[labels == client],
            proxy_labels=owner,
        )
        for client in range(N_CLASSES)
    ]


@pytest.fixture(scope="session")
def one_class_split() -> list[ClientView]:
    """Six clients with one class each; every client contributed a fifth of its 120 rows."""
    return _one_class_split()


@pytest.fixture
def seeded() -> Callable[[int], torch.Generator]:
    """Make a generator from a seed."""
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def one_cloud() -> ClientView:
    """A client with 5,000 private rows and 2,000 fresh proxy rows of the same distribution."""
    rng = torch.Generator().manual_seed(2)
    rows = torch.randn(7000, 10, generator=rng)
    return ClientView(
        private=rows[:5000],
        contributed=torch.zeros(5000, dtype=torch.bool),
        proxy=rows[5000:],
        own=torch.zeros(2000, dtype=torch.bool),
        labels=torch.zeros(5000, dtype=torch.int64),
    )


@pytest.fixture(scope="session")
def tiny() -> ClientView:
    """A client with four private rows, one of them contributed as the first proxy row."""
    rows = torch.eye(4)
    return ClientView(
        private=rows,
        contributed=torch.tensor([True, False, False, False]),
        proxy=torch.cat([rows[:1], rows]),
        own=torch.tensor([True, False, False, False, False]),
        labels=torch.zeros(4, dtype=torch.int64),
    )
