"""The folder of one run: written while the run goes on, readable whenever it stops.

Layout (schema 1, see docs/run_folder.md): ``scenario.json``, ``canaries.json`` (what is planted,
before anything is trained), ``events.jsonl`` (one line a round, written at once),
``ledger.jsonl`` (privacy releases, written before each round), ``transcript/`` (messages),
``metrics.parquet`` (round, client, name, value), ``summary.json``,
``errors.log`` (client tracebacks, if any), ``figures/``.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from fedkd.canaries.registered import list_sha256, registration
from fedkd.errors import ConfigError
from fedkd.privacy.claims import claim
from fedkd.privacy.ledger import Ledger
from fedkd.results import RoundResult, summarise
from fedkd.scenario import Scenario, from_json, scenario_hash, to_json
from fedkd.transcript_writer import TranscriptWriter
from fedkd.types import SCHEMA

CANARIES, LEDGER = "canaries.json", "ledger.jsonl"
PACKAGES = ("fedkd", "flwr", "torch", "numpy", "scikit-learn", "pandas")


@dataclass(kw_only=True)
class RunFolder:
    """A run being written.

    Attributes:
        path: the folder.
        scenario: what is run.
        rounds: the results so far.
        transcript: keeps the messages of the rounds that the scenario says.
        ledger: what was released, in ``ledger.jsonl``, each line written before its round.
        status: ``running``, then ``finished``, ``interrupted`` (Ctrl-C) or ``stopped``.
    """

    path: Path
    scenario: Scenario
    transcript: TranscriptWriter
    rounds: list[RoundResult] = field(default_factory=list[RoundResult])
    status: str = "running"
    ledger: Ledger = field(default_factory=Ledger)
    started: float = field(default_factory=time.perf_counter)

    @staticmethod
    def create(out: Path, scenario: Scenario) -> RunFolder:
        """Make a new folder under ``out``; earlier runs are never overwritten."""
        registered = None if scenario.canaries is None else registration(scenario)
        method = _method_name(scenario)
        name = f"{scenario.name}-{method}-seed{scenario.seed}-{scenario_hash(scenario)[:8]}"
        path = _claimed(out, name)
        head = {
            "schema": SCHEMA,
            "scenario": json.loads(to_json(scenario)),
            "scenario_hash": scenario_hash(scenario),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "platform": {"python": platform.python_version(), "machine": platform.machine()},
        }
        _write_json(path / "scenario.json", head)
        if registered is not None:
            _write_json(path / CANARIES, registered)
        return RunFolder(
            path=path,
            scenario=scenario,
            transcript=TranscriptWriter(
                run=path, kept=scenario.transcript, n_clients=scenario.clients
            ),
            ledger=Ledger(path=path / LEDGER),
        )

    def __enter__(self) -> RunFolder:
        """Open the folder for one run; leaving the block completes it, whatever ended the run."""
        return self

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

    def record(self, stream: Iterator[RoundResult]) -> Iterator[RoundResult]:
        """Pass the stream on and write every result down before it is seen."""
        for result in stream:
            kept = replace(result, traffic=None)
            self.rounds.append(kept)
            self._append_event(kept)
            self.transcript.add(result)
            yield result

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
            **summarise(self.rounds),
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
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _finish(self) -> None:
        import pandas as pd

        self.transcript.close()
        rows = [asdict(m) for result in self.rounds for m in result.measurements]
        table = pd.DataFrame(rows, columns=["round", "client", "name", "value"])
        table.astype({"round": "int32", "client": "int32", "name": "string"}).to_parquet(
            self.path / "metrics.parquet", index=False
        )
        _write_json(self.path / "summary.json", self.summary())


def read_summary(path: Path) -> dict[str, Any]:
    """Return a run's summary, ``run_dir`` being where it lies now; ConfigError if there is none."""
    return _read_json(path / "summary.json") | {"run_dir": str(path)}


def read_scenario(path: Path) -> Scenario:
    """Return the scenario a run was made from."""
    return from_json(json.dumps(_read_json(path / "scenario.json")["scenario"]))


def read_cohorts(path: Path) -> list[tuple[int, list[int]]]:
    """Return the clients that every round asked, as far as the run got; empty for none."""
    events = path / "events.jsonl"
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    asked = [json.loads(line) for line in lines if line.endswith("}")]
    return [(event["round"], event["cohort"]) for event in asked if event["round"] > 0]


def read_canaries(path: Path) -> list[dict[str, Any]]:
    """Return what was registered of each canary; none when nothing was planted.

    Raises:
        ConfigError: the list is not the one that was registered.
    """
    if not (path / CANARIES).exists():
        return []
    tree = _read_json(path / CANARIES)
    if list_sha256(tree["canaries"]) != tree["sha256"]:
        raise ConfigError(f"{str(path / CANARIES)!r} was changed after the run began; run it again")
    return tree["canaries"]


def read_metrics(path: Path) -> Any:
    """Return a run's long-format table as a pandas DataFrame (round, client, name, value)."""
    import pandas as pd

    return pd.read_parquet(path / "metrics.parquet")


def finished_run(out: Path, scenario: Scenario) -> dict[str, Any] | None:
    """Return the summary of a finished run of this very scenario and version under ``out``."""
    wanted = scenario_hash(scenario)
    version = importlib.metadata.version("fedkd")
    for head_path in sorted(out.glob(f"*-{wanted[:8]}*/scenario.json")):
        try:
            head, summary = _read_json(head_path), read_summary(head_path.parent)
        except ConfigError:
            continue
        same = head["scenario_hash"] == wanted and head["versions"]["fedkd"] == version
        if same and summary["status"] == "finished":
            return summary
    return None


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
    part = path.with_suffix(".part")
    part.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"{str(path.parent)!r} is no run folder: {path.name} is missing"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{str(path)!r} is damaged: {error}") from None
    if tree.get("schema") != SCHEMA:
        raise ConfigError(
            f"{str(path)!r} has schema {tree.get('schema')!r}; this fedkd reads {SCHEMA}"
        )
    return tree
