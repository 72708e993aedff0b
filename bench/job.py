"""The job that all simulators run: its data, its settings, and how a side reports its rounds.

100 clients, each with 60 learnable images of 1 x 28 x 28, all taking part in every round: one local
epoch of SGD in batches of 20, then the mean of the models weighted by examples (FedAvg). Only numpy
and the standard library are needed, so that every peer's environment can import it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CLIENTS, ROWS, CLASSES, SIDE = 100, 60, 10, 28
BATCH, RATE = 20, 0.1
TEST_ROWS = 200
"""Few, because fedkd measures every client's model at the end of a run, which peers do not."""
FLOPS_PER_EXAMPLE = {"mlp": 0.409e6, "cnn": 6.48e6}
"""Of one training example, forward and backward (a third is the forward pass)."""
RESULT = "RESULT "
"""A side prints one line that begins so, and JSON after it."""

Examples = tuple[NDArray[np.float32], NDArray[np.int64]]


def client_examples(client: int, *, n_rows: int = ROWS) -> Examples:
    """Return a client's inputs ``[n, 1, 28, 28]`` and labels ``[n]``; the same on every machine.

    An input is the pattern of its class under noise of the same size.
    """
    patterns = np.random.default_rng(0).standard_normal((CLASSES, 1, SIDE, SIDE))
    draw = np.random.default_rng([1000, client])
    labels = draw.integers(0, CLASSES, n_rows)
    inputs = patterns[labels] + draw.standard_normal((n_rows, 1, SIDE, SIDE))
    return inputs.astype(np.float32), labels.astype(np.int64)


def test_examples() -> Examples:
    """Return the test set that every side measures its final model on."""
    return client_examples(10**6, n_rows=TEST_ROWS)


@dataclass(frozen=True)
class Options:
    """What a side is asked for on its command line; ``words`` are overrides for fedkd alone."""

    model: str
    rounds: int
    words: tuple[str, ...] = ()


def read_options() -> Options:
    """Read ``--model``, ``--rounds`` and ``--set``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=sorted(FLOPS_PER_EXAMPLE), default="mlp")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[])
    read = parser.parse_args()
    return Options(read.model, read.rounds, tuple(read.set))


def threads() -> int:
    """Return how many threads a process of this side may use: one, unless the side is told."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


@dataclass
class Clock:
    """Takes the time of rounds; the first one is reported apart from the others by all sides."""

    rounds: list[float] = field(default_factory=list[float])
    last: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Begin the first round here."""
        self.last = time.perf_counter()

    def tick(self) -> None:
        """End a round and begin the next."""
        now = time.perf_counter()
        self.rounds.append(now - self.last)
        self.last = now


def report(rounds: list[float], *, accuracy: float, **facts: object) -> None:
    """Print the line that the harness reads: seconds of every round, final test accuracy."""
    line = {"rounds": rounds, "accuracy": round(float(accuracy), 4), **facts}
    print(RESULT + json.dumps(line), flush=True)
