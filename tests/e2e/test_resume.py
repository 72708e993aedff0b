"""A run that is killed at any named step goes on from its checkpoint and ends the same."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkd.checkpoints import FOLDER
from fedkd.cli import app
from fedkd.compose import compose
from fedkd.errors import ConfigError
from fedkd.privacy.ledger import Ledger
from fedkd.run_files import EVENTS, HEAD, LEDGER, read_metrics
from fedkd.simulation import new_run, resumed_run, run_into, watch_quietly
from fedkd.steps import STEPS
from fedkd.transcript import Transcript

SMALL = ["clients=3", "rounds=3", "models=mlp", "partition=dirichlet", "data.limit=400"]
ALONE = "runtime.workers=1"
KINDS = {
    "edgefd": ["scenario=noniid_strong", *SMALL, "transcript=last", ALONE],
    "student": ["scenario=noniid_strong", *SMALL, "server_model=mlp", "cohort=2", ALONE],
    "fedavg": ["scenario=noniid_strong", *SMALL, "method=fedavg", "training.optimizer=sgd", ALONE],
    "sums": ["scenario=noniid_strong", *SMALL, "server_view=sums", ALONE],
    "replay": ["scenario=noniid_strong", *SMALL, "attack={name: replay, clients: [1]}", ALONE],
    "budget": [
        *("scenario=noniid_strong", *SMALL, "method=fedmd", "models=mlp", ALONE),
        *("privacy.dp_sgd=true", "proxy={name: external, size: 100}"),
        *("privacy.noise_multiplier=1.0", "privacy.target_epsilon=2.3", "privacy.delta=1e-3"),
    ],
    "workers": ["scenario=noniid_strong", *SMALL, "runtime.workers=2"],
}


def _mostly_slow(values: Sequence[str], *, fast: Sequence[str]) -> list:
    """Return the values as parameters, all but a few of them for ``make test-slow``."""
    return [v if v in fast else pytest.param(v, marks=pytest.mark.slow) for v in values]


class _Killer(logging.Handler):
    """Ends this process, as the kernel would, when a step of a round is reached."""

    def __init__(self, step: str, round: int) -> None:
        super().__init__(logging.DEBUG)
        self._wanted = f"round {round}: {step}"

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self._wanted:
            os.kill(os.getpid(), signal.SIGKILL)


def run(words: list[str], out: Path) -> dict:
    folder = new_run(compose(words), out=out)
    run_into(folder, show=watch_quietly)
    return folder.summary()


def killed(words: list[str], out: Path, *, step: str, round: int) -> Path:
    """Run in a process of its own that is killed at a step, and return the run folder."""
    folder = new_run(compose(words), out=out)
    child = os.fork()
    if child == 0:
        steps = logging.getLogger("fedkd.steps")
        steps.setLevel(logging.DEBUG)
        steps.addHandler(_Killer(step, round))
        try:
            run_into(folder, show=watch_quietly)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"step {step!r} of round {round} was never reached"
    return folder.path


def resumed(path: Path) -> dict:
    folder, _ = resumed_run(path)
    run_into(folder, show=watch_quietly)
    return folder.summary()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the summaries of uninterrupted runs, made once each."""
    made: dict[tuple[str, int], dict] = {}

    def get(kind: str, seed: int) -> dict:
        if (kind, seed) not in made:
            out = tmp_path_factory.mktemp("whole")
            made[kind, seed] = run([*KINDS[kind], f"seed={seed}"], out)
        return made[kind, seed]

    return get


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
@pytest.mark.parametrize("step", _mostly_slow(STEPS, fast=("client trained", "recorded")))
def test_a_run_killed_at_any_step_ends_as_if_it_had_not_been(step, seed, whole, tmp_path):
    round = 1 + seed % 2  # after the last round there is nothing to check a point of
    path = killed([*KINDS["edgefd"], f"seed={seed}"], tmp_path, step=step, round=round)
    before = Ledger(path=path / LEDGER).charges
    after, uninterrupted = resumed(path), whole("edgefd", seed)
    assert after["result_hash"] == uninterrupted["result_hash"]
    assert after["status"] == "finished"
    charges = Ledger(path=path / LEDGER).charges
    assert charges[: len(before)] == before, "no release is ever forgotten"
    assert charges == Ledger(path=Path(uninterrupted["run_dir"]) / LEDGER).charges
    assert Transcript.read(path).rounds() == (3,)
    table, other = read_metrics(path), read_metrics(Path(uninterrupted["run_dir"]))
    assert list(table["name"]) == list(other["name"])
    assert not (path / FOLDER).exists(), "a finished run keeps no client's model"


@pytest.mark.parametrize("kind", ["student", "fedavg", "workers", "sums", "replay", "budget"])
@pytest.mark.parametrize(
    "step", _mostly_slow(("answered", "recorded", "checkpoint in place"), fast=())
)
def test_students_optimizers_and_workers_go_on_too(kind, step, whole, tmp_path):
    path = killed([*KINDS[kind], "seed=0"], tmp_path, step=step, round=2)
    after, uninterrupted = resumed(path), whole(kind, 0)
    for told in ("result_hash", "epsilon", "ended_early", "rounds_done"):
        assert after[told] == uninterrupted[told]
    if kind == "budget":
        assert after["rounds_done"] == 2, "a round done again is paid for once"


@pytest.mark.slow
def test_a_run_killed_again_and_again_still_ends_the_same(whole, tmp_path):
    path = killed([*KINDS["edgefd"], "seed=0"], tmp_path, step="combined", round=1)
    for step, round in (("client trained", 1), ("recorded", 2), ("measured", 3)):
        child = os.fork()
        if child == 0:
            steps = logging.getLogger("fedkd.steps")
            steps.setLevel(logging.DEBUG)
            steps.addHandler(_Killer(step, round))
            try:
                resumed(path)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
    assert resumed(path)["result_hash"] == whole("edgefd", 0)["result_hash"]


@pytest.mark.parametrize(
    "file", ["server.safetensors", "clients-00.safetensors", "checkpoint.json"]
)
@pytest.mark.parametrize(
    "damage", _mostly_slow(("cut short", "one bit", "missing"), fast=("one bit",))
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(file, damage, whole, tmp_path):
    path = killed([*KINDS["edgefd"], "seed=0"], tmp_path, step="begun", round=3)
    newest = path / FOLDER / "round-0002" / file
    data = bytearray(newest.read_bytes())
    if damage == "missing":
        newest.unlink()
    elif damage == "cut short":
        newest.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    folder, notes = resumed_run(path)
    assert any("round-0002" in note for note in notes)
    assert folder.resumed is not None
    assert folder.resumed.round == 1
    run_into(folder, show=watch_quietly)
    assert folder.summary()["result_hash"] == whole("edgefd", 0)["result_hash"]


@pytest.mark.slow
def test_with_all_checkpoints_damaged_a_run_begins_again(whole, tmp_path):
    path = killed([*KINDS["edgefd"], "seed=0"], tmp_path, step="begun", round=3)
    for manifest in path.glob(f"{FOLDER}/round-*/checkpoint.json"):
        manifest.write_text("{")
    assert resumed(path)["result_hash"] == whole("edgefd", 0)["result_hash"]


def test_another_scenario_is_refused_with_the_difference(tmp_path):
    path = killed([*KINDS["edgefd"], "seed=0"], tmp_path, step="begun", round=2)
    head = json.loads((path / HEAD).read_text())
    head["scenario"]["training"]["learning_rate"] = 0.5
    (path / HEAD).write_text(json.dumps(head))
    events = (path / EVENTS).read_text()
    with pytest.raises(ConfigError, match=r"training\.learning_rate: .* then, 0\.5 now"):
        resumed_run(path)
    assert (path / EVENTS).read_text() == events, "nothing was touched"


def test_the_command_ends_with_the_line_that_simulate_ends_with(tmp_path):
    """Both in a process of their own; the run is killed as it begins round 2."""
    words = [*KINDS["edgefd"], "seed=0"]
    path = killed(words, tmp_path, step="begun", round=2)
    commands = (["resume", str(path)], ["simulate", *words, "--out", str(tmp_path / "whole")])
    ends = []
    for command in commands:
        done = CliRunner().invoke(app, [*command, "--json", "--quiet"])
        assert done.exit_code == 0, done.output
        ends.append(json.loads(done.stdout.splitlines()[-1]))
    assert ends[0].keys() == ends[1].keys()
    told = ("result_hash", "status", "rounds_done", "bytes_up", "bytes_down", "accuracy_mean")
    assert [ends[0][key] for key in told] == [ends[1][key] for key in told]
    assert ends[0]["run_dir"] == str(path)


def test_a_finished_run_has_nothing_to_resume(whole):
    with pytest.raises(ConfigError, match="is finished"):
        resumed_run(Path(whole("edgefd", 0)["run_dir"]))


def test_a_run_that_goes_on_is_not_resumed_by_another_process(tmp_path):
    folder = new_run(compose([*KINDS["edgefd"], "seed=0"]), out=tmp_path)
    with folder:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                resumed_run(folder.path)
            except ConfigError as error:
                code = 0 if "still running" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
