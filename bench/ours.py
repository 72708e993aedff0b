"""fedkd on the job of ``bench/job.py``: a real run by ``fedkd.simulation.simulate``.

    python -m bench.ours --model mlp --rounds 10

It starts and ends as the command ``fedkd simulate`` does: what a run needs is imported when it is
called, with Python's collector set for a process that does one thing. The clients hold the same
6,000 examples as the peers' clients, 60 each, in fedkd's own random order: which client holds which
example differs, which changes no amount of work.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import job
from fedkd import collector

if TYPE_CHECKING:
    from fedkd.results import RoundResult

MODELS = {"mlp": "mlp", "cnn": "bench_cnn"}
NEVER = 10**6
"""As ``measure_every``: clients are measured after the last round only."""


def write_job(path: Path) -> None:
    """Write the job's examples as an ``npz`` data set."""
    parts = [job.client_examples(client) for client in range(job.CLIENTS)]
    test_inputs, test_labels = job.test_examples()
    np.savez(
        path,
        x_train=np.concatenate([inputs for inputs, _ in parts]),
        y_train=np.concatenate([labels for _, labels in parts]),
        x_test=test_inputs,
        y_test=test_labels,
    )


def overrides(data: Path, options: job.Options) -> list[str]:
    """Return the scenario of the job."""
    return [
        "scenario=iid",
        f"data={{name: npz, root: {data}}}",
        "partition=iid",
        f"clients={job.CLIENTS}",
        f"models={MODELS[options.model]}",
        "method=fedavg",
        f"rounds={options.rounds}",
        "training.optimizer=sgd",
        "training.momentum=0",
        f"training.learning_rate={job.RATE}",
        f"training.batch_size={job.BATCH}",
        "local_test_fraction=0",
        f"measure_every={NEVER}",
        *options.words,
    ]


def seconds_of(results: Iterable[RoundResult]) -> list[float]:
    """Return the seconds of every round but the set-up, as the run itself measured them."""
    return [
        m.value
        for result in results
        for m in result.measurements
        if m.name == "seconds" and m.round > 0
    ]


def main() -> None:
    collector.rarely()
    from fedkd.simulation import simulate

    importlib.import_module("bench.our_cnn")
    options = job.read_options()
    results: list[RoundResult] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "job.npz"
        write_job(data)
        summary = simulate(overrides(data, options), out=folder, show=results.extend)
    job.report(seconds_of(results), accuracy=summary["server_accuracy"])
    collector.at_last()


if __name__ == "__main__":
    main()
