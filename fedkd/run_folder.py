"""The folder of one run: written while the run goes on, readable whenever it stops.

Layout (schema 1, see docs/run_folder.md): ``scenario.json``, ``canaries.json`` (what is planted)
and ``calibration.json`` (what was timed), before anything is trained, ``events.jsonl`` (one line a
round, written at once),
``ledger.jsonl`` (privacy releases, written before each round), ``transcript/`` (messages),
``metrics.parquet`` (round, client, name, value), ``summary.json``,
``errors.log`` (client tracebacks, if any), ``checkpoints/`` (``checkpoints.py``), ``figures/``.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import resource
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fedkd.canaries.registered import registration
from fedkd.checkpoints import Checkpoint, Checkpoints
from fedkd.errors import ConfigError
from fedkd.metrics_file import METRICS, write_metrics
from fedkd.privacy.claims import claim
from fedkd.privacy.ledger import Ledger
from fedkd.results import RoundResult, from_event, summarise
from fedkd.run_files import (
    CALIBRATION,
    CANARIES,
    EVENTS,
    HEAD,
    LEDGER,
    SUMMARY,
    read_events,
    read_json,
    read_scenario,
    read_summary,
)
from fedkd.scenario import Scenario, scenario_hash, to_json
from fedkd.steps import reached
from fedkd.transcript_writer import TranscriptWriter
from fedkd.types import SCHEMA

PACKAGES = ("fedkd", "flwr", "torch", "numpy", "scikit-learn", "pandas")


@dataclass(kw_only=True)
class RunFolder:
    """A run being written.

    Attributes:
        path: the folder.
        scenario: what is run.
        run_id: names this run and no other, for clients and their ledgers.
        deployed: whether its clients are on machines of their own.
        resumed: the checkpoint that the run goes on from, after :meth:`resume`.
        rounds: the results so far.
        transcript: keeps the messages of the rounds that the scenario says.
        ledger: what was released, in ``ledger.jsonl``, each line written before its round.
        status: ``running``, then ``finished``, ``interrupted`` (Ctrl-C) or ``stopped``.
    """

    path: Path
    scenario: Scenario
    run_id: str
    deployed: bool
    transcript: TranscriptWriter
    rounds: list[RoundResult] = field(default_factory=list[RoundResult])
    status: str = "running"
    ledger: Ledger = field(default_factory=Ledger)
    started: float = field(default_factory=time.perf_counter)
    resumed: Checkpoint | None = None
    _held: IO[str] | None = None

    @staticmethod
    def create(
        out: Path,
        scenario: Scenario,
        *,
        run_id: str | None = None,
        timings: Sequence[dict[str, Any]] = (),
    ) -> RunFolder:
        """Make a new folder under ``out``; earlier runs are never overwritten.

        Args:
            out: where.
            scenario: what is run.
            run_id: how clients on machines of their own know the run; None for a simulation.
            timings: what was measured to settle the scenario's ``runtime.choices``.
        """
        registered = None if scenario.canaries is None else registration(scenario)
        method = _method_name(scenario)
        name = f"{scenario.name}-{method}-seed{scenario.seed}-{scenario_hash(scenario)[:8]}"
        path = _claimed(out, name)
        head = {
            "schema": SCHEMA,
            "run_id": run_id or new_run_id(),
            "deployed": run_id is not None,
            "scenario": json.loads(to_json(scenario)),
            "scenario_hash": scenario_hash(scenario),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "platform": {"python": platform.python_version(), "machine": platform.machine()},
        }
        _write_json(path / HEAD, head)
        if registered is not None:
            _write_json(path / CANARIES, registered)
        if timings:
            _write_json(path / CALIBRATION, {"schema": SCHEMA, "models": list(timings)})
        return RunFolder.reopen(path)

    @staticmethod
    def reopen(path: Path) -> RunFolder:
        """Return the folder of a run; ConfigError when there is none."""
        head, scenario = read_json(path / HEAD), read_scenario(path)
        return RunFolder(
            path=path,
            scenario=scenario,
            run_id=head["run_id"],
            deployed=head["deployed"],
            transcript=TranscriptWriter(
                run=path, kept=scenario.transcript, n_clients=scenario.clients
            ),
            ledger=Ledger(path=path / LEDGER),
        )

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path, self.scenario)

    def resume(self) -> list[str]:
        """Go back to the newest checkpoint, and return what a person should know about it.

        Results of rounds after it are forgotten, to be made again; the privacy ledger forgets
        nothing. Without a checkpoint, the run begins again.

        Raises:
            ConfigError: the run finished, another process is running it, or the checkpoint was
                made from another scenario; the differences are named.
        """
        self._claim()
        summary = self.path / SUMMARY
        if summary.exists() and read_summary(self.path)["status"] == "finished":
            raise ConfigError(f"{str(self.path)!r} is finished; 'fedkd show' prints it")
        self.resumed, wrong = self.checkpoints.newest()
        notes = [f"damaged checkpoint, not used: {one}" for one in wrong]
        round = -1 if self.resumed is None else self.resumed.round
        self.checkpoints.drop_after(round)
        events = [event for event in read_events(self.path) if event["round"] <= round]
        self.rounds = [from_event(event) for event in events]
        _write_durably(self.path / EVENTS, "".join(json.dumps(e) + "\n" for e in events))
        self.transcript.rewind(round)
        where = (
            f"after round {round}" if round >= 0 else "from the beginning: no checkpoint is left"
        )
        return [*notes, f"{self.path} goes on {where}"]

    def __enter__(self) -> RunFolder:
        """Open the folder for one run; leaving the block completes it, whatever ended the run.

        Raises:
            ConfigError: another process is writing it.
        """
        self._claim()
        return self

    def _claim(self) -> None:
        if self._held is not None:
            return
        held = (self.path / "lock").open("w", encoding="utf-8")
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held.close()
            raise ConfigError(
                f"{str(self.path)!r}: another process is still running this; wait, or end it"
            ) from None
        self._held = held

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the table and the summary."""
        if kind is None:
            self.status = "finished"
        else:
            self.status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "stopped"
        self._finish()
        if self.status == "finished":
            self.checkpoints.clear()
        if self._held is not None:
            self._held.close()

    def record(self, stream: Iterator[RoundResult]) -> Iterator[RoundResult]:
        """Pass the stream on and write every result down before it is seen."""
        for result in stream:
            kept = replace(result, traffic=None)
            self.rounds.append(kept)
            self._append_event(kept)
            self.transcript.add(result)
            reached("recorded", result.round)
            yield result
            reached("shown", result.round)

    def summary(self) -> dict[str, Any]:
        """Return the run's figures as far as it went."""
        asked = [(r.round, r.cohort) for r in self.rounds if r.round > 0]
        privacy = claim(self.scenario, self.ledger, asked)
        return {
            "schema": SCHEMA,
            "status": self.status,
            "scenario": self.scenario.name,
            "method": _method_name(self.scenario),
            "seed": self.scenario.seed,
            "clients": self.scenario.clients,
            "rounds": self.scenario.rounds,
            **summarise(self.rounds, adversaries=self.scenario.attackers()),
            "seconds": time.perf_counter() - self.started,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "privacy_claim": privacy.sentence,
            "privacy_level": privacy.level,
            "privacy_warnings": privacy.warnings,
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "unit": privacy.unit,
            "scenario_hash": scenario_hash(self.scenario),
            "run_dir": str(self.path),
        }

    def _append_event(self, result: RoundResult) -> None:
        facts = asdict(result)
        del facts["traffic"]
        line = json.dumps({"schema": SCHEMA, "event": "round", **facts})
        with (self.path / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _finish(self) -> None:
        self.transcript.close()
        rows = [m for result in self.rounds for m in result.measurements]
        write_metrics(self.path / METRICS, rows)
        _write_json(self.path / SUMMARY, self.summary())


def new_run_id() -> str:
    """Return 32 hex digits that name a run and no other."""
    return uuid.uuid4().hex


def _method_name(scenario: Scenario) -> str:
    from fedkd.methods.base import methods

    return methods.name_of(scenario.method)


def _claimed(out: Path, name: str) -> Path:
    """Make and return ``out/name``, or ``out/name.2``, ``.3`` ... when that is taken."""
    n = 1
    while True:
        path = out / (name if n == 1 else f"{name}.{n}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            n += 1
        except OSError as error:
            raise ConfigError(f"--out: cannot write to {str(out)!r}: {error.strerror}") from None
        else:
            return path


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    _write_durably(path, json.dumps(tree, indent=2) + "\n")


def _write_durably(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
