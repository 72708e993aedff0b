"""``fedkd audit`` from the command line, on tiny runs that were really trained."""

from __future__ import annotations

import json
import math
import shutil

import jsonschema
import pytest
from typer.testing import CliRunner

from fedkd.audit.auditor import audit
from fedkd.cli import app
from fedkd.errors import ConfigError
from fedkd.reports.audit.report import audit_schema
from fedkd.simulation import simulate
from tests.fedkd.audit.attacks.audited import LEAKY

PROTECTED = (*LEAKY, "protector={name: gaussian, clip_norm: 5, noise_multiplier: 1}")
TEXT = (
    *("data={name: gutenberg_mini, limit: 96, window: 40}", "partition=natural", "clients=4"),
    *("models=gru_char", "server_model=gru_char", "rounds=4", "measure_every=4"),
    "training={learning_rate: 0.01, local_epochs: 2, batch_size: 16}",
    *("method={name: fedmd, distiller: {temperature: 1}}", "proxy.fraction=0.3"),
    "canaries={family: code, insertions: [2, 32], per_level: 4, in_proxy: true}",
    "transcript=last",
)
FEW = "canary_student,canary_uploads,loss_threshold_student"
runner = CliRunner()


def command(*words):
    return runner.invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def leaky(simulated):
    return simulated(*LEAKY).path


@pytest.fixture(scope="module")
def protected(simulated):
    return simulated(*PROTECTED).path


def test_a_whole_audit_of_a_leaking_run(leaky, tmp_path):
    done = command("audit", leaky, "--json", "--out", tmp_path)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["verdict"]["grade"] == "leak found"
    assert found["claim"] == "no formal guarantee"
    assert {row["status"] for row in found["channels"]} <= {"ran", "not applicable"}
    by_attack = {row["attack"]: row for row in found["channels"]}
    assert by_attack["canary_student"]["exposure_p"] < 1e-6
    assert by_attack["canary_student"]["ranking"] == "exact"
    assert by_attack["lira"]["decides"]
    aside = {name for name, row in by_attack.items() if not row["decides"]}
    assert aside == {"canary_clients", "surrogate_agreement"}
    for name in aside:
        assert any(line.startswith(f"{name}: ") for line in found["verdict"]["limits"])
    assert by_attack["canary_uploads"]["eps_lb"] > 2
    bounded = [row for row in found["channels"] if row["eps_lb"] is not None]
    assert {row["eps_delta"] for row in bounded} == {1e-5}, "the delta of the run's guarantees"
    assert all(row["eps_detectable"] > 0 for row in bounded)
    assert "roc" not in by_attack["lira"]
    for key in ("report_html", "report_json", "report_md", "report_pdf"):
        assert (tmp_path / found[key].rsplit("/", 1)[-1]).stat().st_size > 1000
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["done"] for line in told] == list(range(1, len(found["channels"]) + 1))
    stored = json.loads((tmp_path / "audit.json").read_text())
    jsonschema.validate(stored, audit_schema())
    assert len(stored["canaries"]) == 20
    assert stored["run"]["model_sha256"]


def test_the_same_seed_gives_the_same_audit(leaky):
    names = FEW.split(",")
    first, second = (without_time(audit(leaky, attacks=names, seed=3)) for _ in range(2))
    assert first == second
    other = without_time(audit(leaky, attacks=names, seed=4))
    assert other["channels"] != first["channels"]


def without_time(found):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in found["channels"]]
    return {**found, "channels": rows, "seconds": None}


def test_against_tells_how_much_protection_takes_away(leaky, protected, tmp_path):
    words = ("audit", protected, "--against", leaky, "--attacks", FEW, "--out", tmp_path, "--json")
    done = command(*words, "--quiet", "--fail-on", "exposure_reduction<0.1")
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0, done.stderr
    assert found["exposure_reduction"] > 0.1
    assert found["exposure_reduction_ci"][0] < found["exposure_reduction"]
    (level,) = found["comparison"]["exposure_by_level"]
    assert level["plain"] > level["protected"]
    assert found["comparison"]["against"]["dir"] == str(leaky)
    assert {r["figure"] for r in found["comparison"]["rows"]} >= {"auc", "exposure_mean"}


def test_a_condition_that_comes_true_ends_with_code_4(leaky, tmp_path):
    words = ("audit", leaky, "--attacks", FEW, "--out", tmp_path, "--quiet")
    done = command(*words, "--fail-on", "eps_lb>2", "--fail-on", "auc>0.9")
    assert done.exit_code == 4
    assert "eps_lb>2: " in done.stderr
    assert "auc>0.9" not in done.stderr
    unmeasured = command(*words, "--fail-on", "exposure_reduction<0.8")
    assert unmeasured.exit_code == 4
    assert "not measured" in unmeasured.stderr
    assert command(*words, "--fail-on", "nonsense>1").exit_code == 2
    assert command("audit", leaky, "--attacks", "no_such_attack").exit_code == 2


def test_an_attack_that_breaks_is_shown_and_ends_with_code_1(leaky, tmp_path, monkeypatch):
    from fedkd.audit.attacks.base import attacks

    def broken(*_, **__):
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(attacks.get("loss_threshold_student"), "run", broken)
    done = command("audit", leaky, "--attacks", FEW, "--out", tmp_path, "--quiet")
    assert done.exit_code == 1
    assert "loss_threshold_student failed: ZeroDivisionError" in done.stderr
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert [row["status"] for row in stored["channels"]] == ["ran", "ran", "failed"]


def test_diff_says_what_got_worse(leaky, protected, tmp_path):
    folders = []
    for run in (protected, leaky):
        folders.append(tmp_path / run.name)
        command("audit", run, "--attacks", FEW, "--out", folders[-1], "--quiet")
    worse = command("audit", "diff", *folders, "--fail", "--json")
    assert worse.exit_code == 4, worse.stderr
    assert "canary_student" in {row["attack"] for row in json.loads(worse.stdout)["worse"]}
    told = command("audit", "diff", *folders).stdout
    assert "loss_threshold_student" in told, "nothing is cut off in 80 columns"
    assert "exposure_mean" in told
    assert "worse" in told
    assert "…" not in told
    better = command("audit", "diff", *reversed(folders), "--fail")
    assert better.exit_code == 0
    assert command("audit", "diff", folders[0]).exit_code == 2
    assert command("audit", "diff", folders[0], tmp_path / "nothing").exit_code == 2


def test_a_run_without_a_student_or_a_transcript(simulated, tmp_path):
    blind = simulated("method=fedmd", "transcript=last").path
    found = audit(blind, attacks=["loss_threshold_student", "canary_student"])
    assert [row["status"] for row in found["channels"]] == ["not seen", "not applicable"]
    assert found["verdict"]["grade"] == "could not tell"
    nothing = simulated("method=fedmd").path
    done = command("audit", nothing)
    assert done.exit_code == 2
    assert "transcript=last" in done.stderr


def test_on_text_style_decides_nothing_and_sampled_secrets_are_extrapolated(tmp_path):
    run = simulate(TEXT, out=tmp_path / "runs")["run_dir"]
    names = "canary_student,loss_threshold_student"
    done = command("audit", run, "--attacks", names, "--out", tmp_path, "--quiet")
    assert done.exit_code == 0, done.stderr
    assert "does not decide the verdict" in done.stdout
    stored = json.loads((tmp_path / "audit.json").read_text())
    jsonschema.validate(stored, audit_schema())
    secrets, membership = stored["channels"]
    assert (membership["decides"], membership["eps_lb"]) == (False, None)
    assert membership["auc_p"] is not None
    assert any("style passes for memory" in line for line in stored["verdict"]["limits"])
    assert "over 2 tests" in stored["verdict"]["sentence"]
    assert (secrets["decides"], secrets["ranking"]) == (True, "sampled")
    assert sum(level["extrapolation"]["at_cap"] for level in secrets["levels"]) > 0
    tried = [one["extrapolation"] for one in secrets["exposures"] if one["extrapolation"]]
    assert all((one["value"] is None) == (one["reason"] is not None) for one in tried)
    assert {one["ceiling"] for one in tried} == {math.log2(10_000)}


def test_runs_that_do_not_pair_are_refused(leaky, simulated):
    other_seed = simulated(*LEAKY, "seed=5").path
    with pytest.raises(ConfigError, match="other secrets"):
        audit(leaky, against=other_seed, attacks=["canary_student"])
    without = simulated("method=fedmd", "transcript=last").path
    with pytest.raises(ConfigError, match="differ in canaries"):
        audit(leaky, against=without, attacks=["canary_student"])


def test_simulate_can_audit_at_its_end(tmp_path):
    tiny = ("data=digits", "models=mlp", "clients=2", "rounds=1", "method=fedmd")
    words = ("simulate", *tiny, "partition=iid", "--out", tmp_path, "--audit", "--quiet")
    assert command(*words).exit_code == 2
    assert not list(tmp_path.iterdir()), "refused before anything was trained"
    done = command(*words, "transcript=last", "server_model=mlp")
    assert done.exit_code == 0, done.stderr
    assert len(list(tmp_path.glob("*/audit/audit.html"))) == 1
    shutil.rmtree(tmp_path)
