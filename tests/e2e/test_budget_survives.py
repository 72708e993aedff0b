"""A privacy budget survives what kills a run: neither a crash nor a new start gives any back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from fedkd.privacy.accounting import epsilon
from fedkd.privacy.events import SampledGaussian, Unit
from fedkd.privacy.ledger import Channel, Ledger

GUARD = (Unit.RECORD, Channel.UPLOAD)
AFFORDABLE = 4


def _cost(rounds: int) -> float:
    return epsilon([SampledGaussian(0.25, 1.5, 4)] * rounds, delta=1e-5)


def _command(tmp_path) -> list[str]:
    target = (_cost(AFFORDABLE) + _cost(AFFORDABLE + 1)) / 2
    return [
        *(sys.executable, "-m", "fedkd", "simulate", "scenario=dp_sgd", "data=digits"),
        *("models=mlp", "proxy.size=60", "clients=2", "rounds=50", "measure_every=50"),
        *("privacy.noise_multiplier=1.5", "privacy.sampling_probability=0.25"),
        f"privacy.target_epsilon={target}",
        *("--out", str(tmp_path / "runs"), "--ledger", str(tmp_path / "ledgers")),
    ]


@pytest.mark.parametrize("rounds_before", [1, 3])
def test_kill_and_start_again(tmp_path, rounds_before):
    with subprocess.Popen(_command(tmp_path), stderr=subprocess.PIPE, text=True) as killed:
        for line in killed.stderr or ():
            if f'"round": {rounds_before}' in line:
                killed.send_signal(signal.SIGKILL)
                break
    survived = Ledger(path=tmp_path / "ledgers" / "client-0.jsonl")
    done = len(survived.of(0, *GUARD))
    assert rounds_before <= done <= AFFORDABLE

    command = [*_command(tmp_path), "--json", "--quiet"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(again.stdout.splitlines()[-1])
    assert summary["status"] == "finished"
    assert summary["rounds_done"] == AFFORDABLE - done
    assert summary["left_out"] == 2
    whole = Ledger(path=tmp_path / "ledgers" / "client-0.jsonl")
    assert whole.epsilon(0, *GUARD, delta=1e-5) == _cost(AFFORDABLE)


def test_the_run_folder_of_a_killed_run_says_what_was_released(tmp_path):
    with subprocess.Popen(_command(tmp_path), stderr=subprocess.PIPE, text=True) as killed:
        for line in killed.stderr or ():
            if '"round": 2' in line:
                killed.send_signal(signal.SIGKILL)
                break
    run = next((tmp_path / "runs").iterdir())
    explain = [sys.executable, "-m", "fedkd", "privacy", "explain", str(run), "--json"]
    told = json.loads(subprocess.run(explain, capture_output=True, text=True, check=True).stdout)
    assert told["claim_level"] == 2
    rounds = next(e["count"] for e in told["clients"][0]["events"] if e["unit"] == "record")
    assert rounds in (2, 3)
    assert told["clients"][0]["epsilon"] == pytest.approx(_cost(rounds))
