"""What all tests share: one torch thread, tiny runs, and a guard over the global random streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# pytest puts tests/ on the path, where tests/fedkd would pass for the (editable) package.
sys.path.insert(0, str(Path(__file__).parents[1]))

import hypothesis
import numpy as np
import pytest
import torch
from fedkd_clients.app import build_app, fleet_in_memory
from fedkd_server.rounds import run_rounds
from flwr.supercore.task_identity import TaskIdentity

from fedkd.compose import compose
from fedkd.results import RoundResult
from fedkd.run_files import read_metrics
from fedkd.scenario import Scenario, to_json
from fedkd.simulation import simulate
from fedkd.transport.inprocess import InProcessGrid

torch.set_num_threads(1)  # small tensors: threads cost more than they bring on a busy machine
hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("house")

TINY = ("data=digits", "models=mlp", "clients=3", "rounds=2", "partition=iid")
GUARDED = {"contract", "golden", "server", "clients", "e2e"}
ON_RAY = {"test_ray", "test_flwr_run", "test_calibrated_runs"}
"""Files whose slow tests start Ray clusters, which wait for one another when two start at once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, where they share servers, and all of Ray's."""
    for item in items:
        file = item.path.stem
        item.add_marker(pytest.mark.xdist_group("ray" if file in ON_RAY else file))


@pytest.fixture
def imported_by() -> Callable[..., tuple[list[str], set[str]]]:
    """Run the ``fedkd`` command in a process; return what it printed, and all modules by then."""

    def run(*words: str) -> tuple[list[str], set[str]]:
        program = (
            "import atexit, json, sys\n"
            f"sys.argv = ['fedkd', *{words!r}]\n"
            "from fedkd.cli import main\n"
            "atexit.register(lambda: print(json.dumps(sorted(sys.modules))))\n"
            "main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        *printed, modules = done.stdout.splitlines()
        return printed, set(json.loads(modules))

    return run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run, read back from its folder."""

    summary: dict[str, Any]
    path: Path

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of events.jsonl."""
        return [json.loads(line) for line in (self.path / "events.jsonl").read_text().splitlines()]

    def digests(self) -> list[str]:
        """Return the digest of every round's broadcast."""
        return [event["digest"] for event in self.events()]

    def metrics(self) -> Any:
        """Return the long-format table."""
        return read_metrics(self.path)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Scenario]:
    """Compose the smallest honest scenario, with further overrides."""
    return lambda *overrides: compose([*TINY, *overrides])


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """Run the tiny scenario with further overrides, once a session."""
    done: dict[tuple[str, ...], Outcome] = {}

    def run(*overrides: str) -> Outcome:
        if overrides not in done:
            out = tmp_path_factory.mktemp("runs")
            summary = simulate([*TINY, *overrides], out=out)
            done[overrides] = Outcome(summary=summary, path=Path(summary["run_dir"]))
        return done[overrides]

    return run


Play = Callable[..., list[RoundResult]]


@pytest.fixture(scope="session")
def play() -> Play:
    """Run the real server and client apps, with another fleet, grid or onlooker where given."""

    def run(
        scenario: Scenario,
        *,
        fleet_for: Callable[[Any], Any] | None = None,
        grid: type[InProcessGrid] = InProcessGrid,
        after_round: Callable[[RoundResult], None] | None = None,
    ) -> list[RoundResult]:
        fleet = None if fleet_for else fleet_in_memory(scenario)
        app = build_app(fleet_for or (lambda _: fleet))
        text = to_json(scenario)
        between = grid(app, n_clients=scenario.clients, scenario_json=text)
        TaskIdentity.task_id = TaskIdentity.run_id = between.run.run_id
        TaskIdentity.node_id = 0
        results: list[RoundResult] = []
        for result in run_rounds(between, scenario):
            results.append(result)
            if after_round is not None:
                after_round(result)
        return results

    return run


@contextmanager
def _global_seed(seed: int) -> Generator[None]:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()
    torch.manual_seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_before)
        np.random.set_state(numpy_before)


@pytest.fixture(scope="session")
def global_seed() -> Callable[[int], AbstractContextManager[None]]:
    """Set torch's and NumPy's global seeds for a while."""
    return _global_seed


def _global_streams() -> tuple[bytes, bytes, int]:
    _, keys, position, *_ = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), np.asarray(keys).tobytes(), int(position)


@pytest.fixture(autouse=True)
def _global_streams_untouched(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail a test that leaves torch's or NumPy's global stream changed, where that is forbidden."""
    guarded = GUARDED & set(request.path.parts)
    before = _global_streams() if guarded else None
    yield
    if guarded:
        assert _global_streams() == before, "a global random stream was drawn from or seeded"
