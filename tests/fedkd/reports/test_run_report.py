"""The report of a run says what its folder holds, whatever ended it, and nothing can act in it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedkd.cli import app
from fedkd.data.datasets.base import datasets
from fedkd.errors import ConfigError
from fedkd.reports.run.confusion import confusion_of, confusion_table
from fedkd.reports.run.facts import KILLED, gather
from fedkd.reports.run.report import write_run_report
from fedkd.results import Failure, Measurement, RoundResult, Traffic
from fedkd.run_folder import RunFolder
from fedkd.runtime import Kept
from fedkd.scenario import Scenario
from fedkd.types import Consensus, ProxySet, ProxySource, Space

HOSTILE = "</p><script>alert(1)</script>\"'>"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A report as its reader sees it: tags, attributes, text by line, and the cells of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.pieces.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.pieces)

    def after(self, name: str) -> str:
        """Return the text that follows a name: a tile's value, a fact, the next cell."""
        return self.pieces[self.pieces.index(name) + 1]

    def row(self, name: str, cells: int) -> list[str]:
        place = self.pieces.index(name)
        return self.pieces[place : place + cells]


@pytest.fixture(scope="module")
def outcome(simulated):
    return simulated("transcript=last", "server_model=mlp")


@pytest.fixture
def run(outcome, tmp_path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(outcome.path, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(outcome, tmp_path_factory) -> Page:
    """The finished run's report."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return _page(Path(shutil.copytree(outcome.path, folder)))


def _made(tmp_path: Path, rounds: list[RoundResult], **fields) -> Path:
    scenario = Scenario(**{"name": "made", "rounds": 3, "clients": 2, "models": "mlp"} | fields)
    folder = RunFolder.create(tmp_path, scenario)
    with folder:
        for _ in folder.record(iter(rounds)):
            pass
    return folder.path


def _page(run: Path) -> Page:
    path = write_run_report(run)
    assert path == run / "report.html"
    return Page(path)


def test_the_numbers_are_the_summarys(whole, outcome):
    page, s = whole, outcome.summary
    for name, key in (
        ("Client models (mean)", "accuracy_mean"),
        ("After a last exchange", "accuracy_distilled_mean"),
        ("On own held-out examples", "accuracy_local_mean"),
        ("Teacher (consensus)", "teacher_accuracy"),
        ("Server model", "server_accuracy"),
        ("Coverage", "coverage"),
    ):
        assert page.after(name) == f"{100 * s[key]:.1f} %", name
    assert f"worst {100 * s['accuracy_worst']:.1f} %, on the test set" in page.pieces
    assert page.after("result hash") == s["result_hash"]
    assert page.after("scenario hash") == s["scenario_hash"]
    assert s["privacy_claim"] in page.pieces
    assert all(warning in page.pieces for warning in s["privacy_warnings"])
    assert s["privacy_warnings"]
    assert re.fullmatch(r"fedkd replay \S+/run", page.after("command"))
    assert "2 of 2 rounds done; status: finished." in page.text
    assert f"torch {torch.__version__}" in page.after("versions")
    assert page.after("method.filter.quantile") == "0.5"


def test_bytes_are_told_by_kind_and_direction(whole, outcome):
    page, s = whole, outcome.summary
    for kind, what in (
        ("knowledge", "scores of clients"),
        ("consensus", "scores from the server"),
        ("proxy", "inputs of the proxy set"),
    ):
        _, below, up, down = page.row(kind, 4)
        assert below == what
        for cell, sizes in ((up, s["bytes_by_kind"]["up"]), (down, s["bytes_by_kind"]["down"])):
            assert _bytes(cell) == pytest.approx(sizes.get(kind, 0), rel=0.03, abs=60)
    assert [_bytes(cell) for cell in page.row("all", 3)[1:]] == pytest.approx(
        [s["bytes_up"], s["bytes_down"]], rel=0.03
    )


def _bytes(cell: str) -> float:
    if cell == "–":  # noqa: RUF001
        return 0.0
    number, unit = cell.split()
    return float(number) * {"kB": 1e3, "MB": 1e6}[unit]


def test_every_client_has_a_line(whole, outcome):
    page, table = whole, outcome.metrics()
    last = table[(table["name"] == "accuracy") & (table["round"] == 2)].set_index("client")["value"]
    for client in range(3):
        _, model, accuracy = page.row(f"client {client}", 3)
        assert (model, accuracy) == ("mlp", f"{100 * last[client]:.1f} %")
    assert "No client failed." in page.pieces


def test_the_confusion_agrees_with_the_teachers_accuracy(outcome, whole):
    found = gather(outcome.path)
    confusion = found.confusion
    assert confusion is not None
    assert confusion.round == 2
    rows = outcome.summary["coverage"] * _proxy_rows(outcome)
    assert confusion.counts.sum() == pytest.approx(rows)
    assert confusion.counts.sum() + confusion.uncovered.sum() == _proxy_rows(outcome)
    share = np.trace(confusion.counts) / confusion.counts.sum()
    assert share == pytest.approx(outcome.summary["teacher_accuracy"])
    assert "the consensus says" in whole.text
    says = whole.pieces.index("no keeper")
    line = whole.pieces[says + 1 : says + 1 + 12]
    assert [int(cell) for cell in line] == [0, *confusion.counts[0], confusion.uncovered[0]]


def _proxy_rows(outcome) -> float:
    table = outcome.metrics()
    return float(table[table["name"] == "proxy_rows"]["value"].iloc[0])


def test_rows_that_nobody_kept_are_counted_apart():
    consensus = Consensus(
        rows=torch.tensor([0, 2, 3]),
        scores=torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]),
        space=Space.PROBS,
        temperature=1.0,
        keepers=None,
    )
    found = confusion_of(consensus, np.array([0, 0, 1, 1, 1]), words=(), round=4)
    assert found.counts.tolist() == [[1, 0], [1, 1]]
    assert found.uncovered.tolist() == [1, 1]
    assert found.words == ("0", "1")
    assert confusion_of(consensus, np.array([0] * 5), words="a ", round=4).words == ("a", "space")


def test_of_many_classes_the_commonest_mistakes_are_told():
    n_classes = 30
    true = np.array([3] * 5 + [4] * 2 + [5] * 4)
    said = torch.tensor([7] * 5 + [4, 8] + [5] * 3)
    found = confusion_of(
        Consensus(
            rows=torch.arange(10),
            scores=torch.eye(n_classes)[said],
            space=Space.PROBS,
            temperature=1.0,
            keepers=None,
        ),
        true,
        words=(),
        round=1,
    )
    told = confusion_table(found)
    assert re.findall(r">(\d+)<", told) == ["3", "7", "5", "4", "8", "1"]
    assert "4 of 10 covered rows are right, 1 have no keeper" in told


def test_without_a_transcript_the_page_says_how_to_get_one(simulated, tmp_path):
    page = _page(Path(shutil.copytree(simulated().path, tmp_path / "run")))
    assert "Not kept; run with transcript=last." in page.pieces
    assert "the consensus says" not in page.text


def test_a_lost_transcript_does_not_cost_the_report(run):
    shutil.rmtree(run / "transcript")
    assert any(piece.startswith("Not available here: ") for piece in _page(run).pieces)


def test_a_method_without_knowledge_has_no_proxy_section(simulated, tmp_path):
    page = _page(Path(shutil.copytree(simulated("method=local").path, tmp_path / "run")))
    assert "Proxy set and consensus" not in page.pieces
    assert "Client models (mean)" in page.pieces


def test_nothing_is_fetched_and_nothing_runs(whole):
    page = whole
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), value[:80]
        for target in re.findall(r"url\(([^)]*)\)", value):
            assert target.startswith("#")
    rest = re.sub(r'xmlns(:\w+)?="[^"]*"|base64,[^"]*', "", page.source)
    assert not re.search(r"https?:|//\w|@import", rest)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 8
    for _, name, value in page.attributes:
        if value.startswith("#") and "href" in name:
            assert value[1:] in ids
    assert page.tags.count("svg") == 5


def test_hostile_text_is_only_text(tmp_path):
    rounds = [
        RoundResult(
            round=1,
            cohort=[0, 1],
            measurements=[Measurement(1, 0, "accuracy", 0.5)],
            failures=[Failure(1, 1, HOSTILE)],
            left_out=[0],
        )
    ]
    page = _page(_made(tmp_path, rounds, description=HOSTILE))
    assert "script" not in page.tags
    assert page.pieces.count(HOSTILE) == 3  # lead, reason, and the scenario's own key
    assert HOSTILE not in page.source
    reason = page.pieces.index("reason")
    assert page.pieces[reason + 1 : reason + 4] == ["1", "1", HOSTILE]


def test_failures_and_left_out_clients_are_told_together(tmp_path):
    rounds = [
        RoundResult(
            round=n,
            cohort=[0, 1, 2, 3, 4],
            measurements=[Measurement(n, c, "accuracy", 0.5) for c in range(5)],
            failures=[Failure(n, c, "ValueError") for c in (1, 2, 3)] if n == 2 else [],
            left_out=[5] if n == 3 else [],
        )
        for n in (1, 2, 3)
    ]
    page = _page(_made(tmp_path, rounds, clients=6))
    assert page.pieces[page.pieces.index("ValueError") - 2 :][:2] == ["2", "1-3"]
    caption = page.pieces.index("Left out: the round would exceed their privacy budget")
    assert page.pieces[caption + 3 : caption + 5] == ["3", "5"]


def test_an_interrupted_run_is_reported_as_far_as_it_went(tmp_path):
    folder = RunFolder.create(tmp_path, Scenario(name="made", rounds=9, clients=2, models="mlp"))

    def stream():
        yield _measured(1, 0.25)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), folder:
        for _ in folder.record(stream()):
            pass
    page = _page(folder.path)
    assert "This run was interrupted" in page.pieces
    assert "Everything below is as of round 1 of 9." in page.pieces
    assert page.after("Client models (mean)") == "25.0 %"


def _measured(n: int, accuracy: float) -> RoundResult:
    return RoundResult(
        round=n,
        cohort=[0, 1],
        measurements=[Measurement(n, c, "accuracy", accuracy) for c in (0, 1)],
    )


def test_a_killed_run_is_reported_from_its_events(run, outcome):
    (run / "summary.json").unlink()
    (run / "metrics.parquet").unlink()
    found = gather(run)
    kept = {
        key: value
        for key, value in outcome.summary.items()
        if key not in ("status", "seconds", "peak_rss_mb", "run_dir")
    }
    assert {key: found.summary[key] for key in kept} == kept
    page = _page(run)
    assert KILLED in page.pieces
    assert "status: unfinished." in page.text
    assert page.after("Client models (mean)") == f"{100 * outcome.summary['accuracy_mean']:.1f} %"


def test_a_line_that_was_cut_off_is_named(run):
    (run / "summary.json").unlink()
    text = (run / "events.jsonl").read_text()
    (run / "events.jsonl").write_text(text[: len(text) - 40])
    page = _page(run)
    assert "The last line of events.jsonl is cut off; that round is missing here." in page.pieces
    assert "Everything below is as of round 1 of 2." in page.pieces
    (run / "events.jsonl").write_text("{broken\n" + text)
    with pytest.raises(ConfigError, match=r"events\.jsonl' is damaged in line 1"):
        write_run_report(run)


def test_a_summary_that_is_not_of_these_events_is_told(run):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"result_hash": "0" * 16}))
    page = _page(run)
    (note,) = [piece for piece in page.pieces if "one of the two files" in piece]
    assert summary["result_hash"] in note
    assert "0" * 16 in note


def test_a_run_without_a_round_has_a_report(tmp_path):
    page = _page(_made(tmp_path, []))
    assert "No accuracy was measured." in page.pieces
    assert "0 of 3 rounds done; status: finished." in page.text


def test_a_text_run_is_told_in_bits(tmp_path):
    rounds = [
        RoundResult(
            round=n,
            cohort=[0, 1],
            measurements=[
                *[Measurement(n, c, "bits_per_character", 4.5 - n - c / 2) for c in (0, 1)],
                *[Measurement(n, c, "accuracy", n / 4) for c in (0, 1)],
                Measurement(n, -1, "server_bits_per_character", 3.125),
            ],
        )
        for n in (1, 2, 3)
    ]
    page = _page(_made(tmp_path, rounds))
    assert page.after("Bits per character, clients (mean)") == "1.250"
    assert page.after("Bits per character, server model") == "3.125"
    assert page.row("client 1", 4) == ["client 1", "mlp", "1.000", "75.0 %"]
    assert "bits per character by round" in page.pieces


def test_the_command_ends_with_the_path(run):
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(run / "report.html")
    assert (run / "report.html").is_file()


def test_the_command_refuses_what_is_no_run(tmp_path):
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == f"fedkd: {str(tmp_path)!r} is no run folder: scenario.json is missing\n"


def test_own_examples_have_no_confusion(tmp_path):
    """On devices, clients may give the proxy set examples that are in no data set here."""
    proxy = ProxySet(
        inputs=torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
        ids=torch.tensor([0, 10**6, 10**6 + 1]),
        owner=torch.tensor([0, 1, 1]),
        source=ProxySource.POOLED,
    )
    consensus = Consensus(
        rows=torch.arange(3),
        scores=torch.full((3, 10), 0.1),
        space=Space.PROBS,
        temperature=3.0,
        keepers=torch.ones(3, dtype=torch.int64),
    )
    rounds = [
        RoundResult(round=0, cohort=[0, 1], measurements=[], traffic=Traffic(proxy=proxy)),
        RoundResult(round=1, cohort=[0, 1], measurements=[], traffic=Traffic(broadcast=consensus)),
    ]
    run = _made(tmp_path, rounds, transcript=Kept.LAST, data=datasets.get("digits")())
    page = _page(run)
    assert "their classes are known to nobody here" in page.text
    assert gather(run).confusion is None
