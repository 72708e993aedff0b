"""Every form of an audit report says what the result says, and nothing a client slipped in."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pypdf import PdfReader

from fedkd.reports.audit.figures import MOST_CLIENTS
from fedkd.reports.audit.report import audit_schema, write_audit
from tests.fedkd.reports import audit_sample

SAMPLES = {name: getattr(audit_sample, name) for name in ("full", "minimal", "unproved", "hostile")}
VOID = {"meta", "br"}
SVG_LINK = re.compile(r'\s(?:xmlns|xmlns:xlink)="[^"]*"')


class Reports:
    """Writes every sample once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._done = folder, dict[str, dict[str, Path]]()

    def __call__(self, name: str) -> dict[str, Path]:
        if name not in self._done:
            self._done[name] = write_audit(SAMPLES[name](), self._folder / name)
        return self._done[name]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return Reports(tmp_path_factory.mktemp("audits"))


class Reader(HTMLParser):
    """Collects elements, attributes, the rows of tables and the visible text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            below = "\n" if self.open[-1] == "span" and self.tables[-1][-1][-1] else ""
            self.tables[-1][-1][-1] += below + data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def pdf_text(path: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_json_holds_to_its_schema(reports, name):
    schema = audit_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    stored = json.loads(reports(name)["report_json"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(stored)


def _stripped(full: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the row of an attack on canaries without what was extrapolated."""
    row = next(row for row in full["channels"] if row[key])
    kept = [{k: v for k, v in each.items() if k != "extrapolation"} for each in row[key]]
    return row | {key: kept}


def _broken() -> dict[str, dict[str, Any]]:
    full = audit_sample.full()
    row = full["channels"][0]
    return {
        "another kind": full | {"kind": "other"},
        "a newer schema": full | {"schema": 2},
        "no verdict": {key: value for key, value in full.items() if key != "verdict"},
        "an unknown grade": full | {"verdict": full["verdict"] | {"grade": "fine"}},
        "text for a number": full | {"channels": [row | {"auc": "0.5"}]},
        "an AUC above one": full | {"channels": [row | {"auc": 1.2}]},
        "a negative bound": full | {"channels": [row | {"eps_lb": -0.1}]},
        "an interval of one": full | {"channels": [row | {"auc_ci": [0.5]}]},
        "a p above one": full | {"channels": [row | {"auc_p": 1.2}]},
        "a row that does not say whether it decides": full
        | {"channels": [{key: value for key, value in row.items() if key != "decides"}]},
        "an unknown ranking": full | {"channels": [row | {"ranking": "guessed"}]},
        "a level without its extrapolation": full | {"channels": [_stripped(full, "levels")]},
        "an exposure without its extrapolation": full
        | {"channels": [_stripped(full, "exposures")]},
        "an unknown status": full | {"channels": [row | {"status": "maybe"}]},
        "a row without an attack": full
        | {"channels": [{key: value for key, value in row.items() if key != "attack"}]},
    }


@pytest.mark.parametrize("what", _broken())
def test_the_schema_refuses(what):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_broken()[what], audit_schema())


def test_what_is_not_finite_becomes_null_everywhere(tmp_path):
    result = audit_sample.full()
    result["channels"][0] |= {"eps_ceiling": math.inf, "auc": math.nan, "auc_ci": (0.1, -math.inf)}
    result["ledger"]["clients"][0]["epsilon"] = math.inf
    result |= {"channels": result["channels"][:1], "comparison": None}
    paths = write_audit(result, tmp_path / "new")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = paths["report_json"].read_text(encoding="utf-8")
    stored = json.loads(text, parse_constant=refuse)
    assert stored["channels"][0]["auc"] is None
    assert stored["channels"][0]["auc_ci"] == [0.1, None]
    assert stored["ledger"]["clients"][0]["epsilon"] is None
    for path in (paths["report_html"], paths["report_md"]):
        assert not re.search(r"\b(nan|inf)\b", " ".join(read_text(path)))


def read_text(path: Path) -> list[str]:
    return read(path).text if path.suffix == ".html" else [path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_page_needs_nothing_and_runs_nothing(reports, name):
    path = reports(name)["report_html"]
    source = SVG_LINK.sub("", path.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//[a-z]", source)
    assert not re.search(r"@import|url\((?!#)", source)
    page = read(path)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "link", "form", "base"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert len(page.ids) == len(set(page.ids))
    assert {"main", "nav", "h1", "h2"} <= page.tags
    assert "\u202e" not in source
    assert "\x07" not in source


@pytest.mark.parametrize("form", ["report_html", "report_md", "report_pdf"])
def test_hostile_text_is_shown_as_it_is_everywhere(reports, form):
    path = reports("hostile")[form]
    text = pdf_text(path) if path.suffix == ".pdf" else "".join(read_text(path))
    seen = re.sub(r"\s|\\", "", re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), text))
    for words in ("lira", "server", "fedmd", "lm_canary", "chosenononehalf,boundedontheother"):
        assert words + "</td></svg><script>alert(1)</script>" in seen, words


def test_hostile_text_stays_text_in_markdown(reports):
    text = reports("hostile")["report_md"].read_text(encoding="utf-8")
    outside_code = re.sub(r"`[^`\n]*`", "", text.replace("\\`", ""))
    assert set(re.findall(r"</?\w+", outside_code)) <= {
        "<details",
        "</details",
        "<summary",
        "</summary",
        "<br",
    }
    assert "@" not in outside_code
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert len(blocks) >= 4
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


@pytest.mark.parametrize("name", ["full", "unproved"])
@pytest.mark.parametrize("form", ["report_html", "report_md", "report_pdf"])
def test_every_channel_and_attack_is_named(reports, name, form):
    path = reports(name)[form]
    text = pdf_text(path) if path.suffix == ".pdf" else " ".join(read_text(path))
    for row in SAMPLES[name]()["channels"]:
        for words in (row["channel"], row["adversary"], row["attack"]):
            assert words.split()[0] in text, words


def _close(cell: str, value: float | None, within: float) -> bool:
    if value is None:
        return cell == "–"  # noqa: RUF001
    return abs(float(cell.removesuffix(" %")) - value) <= within + 1e-9


def _row_is(cells: list[str], row: dict[str, Any]) -> None:
    """Check the printed row of an attack against its numbers."""
    first = [cell.partition("\n")[0] for cell in cells]
    below = [cell.partition("\n")[2] for cell in cells]
    assert first[:4] == [row["channel"], row["adversary"], row["attack"], str(row["n"])]
    assert _close(first[4], row["auc"], 0.0005)
    for place, key in ((5, "tpr_at_fpr_01"), (6, "tpr_at_fpr_001")):
        assert _close(first[place], None if row[key] is None else 100 * row[key], 0.05)
    assert _close(first[7], row["eps_lb"], 0.01)
    if row["eps_lb"] is not None:
        assert float(first[7]) <= row["eps_lb"], "a lower bound must not be rounded up"
        assert _close(below[7].removeprefix("ceiling "), row["eps_ceiling"], 0.01)
    assert _close(first[8], row["exposure_mean"], 0.005)
    p = row["auc_p"] if row["exposure_p"] is None else row["exposure_p"]
    if p is not None and p < 0.001:
        assert first[9] == "<0.001"
    else:
        assert _close(first[9], p, 0.0005)
    assert below[9] == ("" if row["decides"] else "set aside")
    for place, key, scale, within in ((4, "auc_ci", 1, 0.0005), (5, "tpr_ci", 100, 0.05)):
        ends = below[place].replace(" %", "").split(" to ") if row[key] else []
        for shown, value in zip(ends, row[key] or [], strict=True):
            assert _close(shown, scale * value, within)


def test_the_channel_table_prints_the_numbers_of_the_result(reports):
    rows = [row for row in audit_sample.full()["channels"] if row["status"] == "ran"]
    table = read(reports("full")["report_html"]).tables[0]
    assert len(table) == 1 + len(rows)
    for cells, row in zip(table[1:], rows, strict=True):
        _row_is(cells, row)
    lines = reports("full")["report_md"].read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| channel | adversary"))
    for line, row in zip(lines[start + 2 :], rows, strict=False):
        cells = [cell.replace("<br>", "\n") for cell in line.strip("| ").split(" | ")]
        _row_is([re.sub(r"\\|&#60;", lambda m: "<" * (len(m[0]) > 1), c) for c in cells], row)
    paper = pdf_text(reports("full")["report_pdf"])
    for cells in table[1:]:
        for cell in cells:
            assert cell.partition("\n")[0].split()[0] in paper


def test_tables_of_levels_labels_ledger_and_comparison_print_their_numbers(reports):
    result = audit_sample.full()
    tables = {table[0][0] + str(len(table[0])): table for table in read(
        reports("full")["report_html"]).tables}  # fmt: skip
    levels = [level for row in result["channels"] for level in row["levels"]]
    for cells, level in zip(tables["attack8"][1:], levels, strict=True):
        assert int(cells[2]) == level["insertions"]
        assert _close(cells[4].partition("\n")[0], level["mean"], 0.005)
    labels = [guess for row in result["channels"] for guess in row["labels"]]
    for cells, guess in zip(tables["client5"][1:], labels, strict=False):
        assert int(cells[0]) in range(10)
        if cells[1] == "label_distribution":
            assert _close(cells[3], guess["kl"], 0.0005)
            assert _close(cells[4], guess["kl_prior"], 0.0005)
    change = {row[0].partition("\n")[0]: row for row in tables["figure6"][1:]}
    assert change["clients' accuracy"][2:5] == ["81.2 %", "83.1 %", "-1.9 points"]
    assert change["exposure_mean"][2:] == ["2.8", "9.1", "-6.3", "<0.001"]
    gone = {row[0]: row for row in tables["insertions4"][1:]}
    assert gone["16"][1:] == ["9.10", "2.80", "82.4 %\n70.1 % to 91.2 %"]
    assert "not above the floor" in gone["1"][3]


def _cells_of_markdown(path: Path, start: str) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(start)) + 2
    found = []
    while at < len(lines) and lines[at].startswith("| "):
        found.append([c.replace("<br>", "\n") for c in lines[at].strip("| ").split(" | ")])
        at += 1
    return found


def test_exposure_beyond_the_cap_is_told_beside_the_cap_in_every_form(reports):
    student, uploads = audit_sample.full()["channels"][2:4]
    assert (student["ranking"], uploads["ranking"]) == ("sampled", "exact")
    few, some, many = student["levels"]
    assert some["extrapolation"]["opened"] > 1
    assert many["extrapolation"]["opened"] < many["extrapolation"]["at_cap"]
    tables = read(reports("full")["report_html"]).tables
    page = next(table for table in tables if table[0][-1] == "remark")[1:]
    on_md = _cells_of_markdown(reports("full")["report_md"], "| attack | channel | insertions")
    for rows in (page, on_md):
        for cells, level in zip(rows, (few, some, many), strict=False):
            beyond = level["extrapolation"]
            assert cells[2:5] == [
                str(level["insertions"]),
                f"{beyond['at_cap']} of {level['n']}",
                str(beyond["opened"]),
            ]
            assert _close(cells[5].partition("\n")[0], beyond["mean"], 0.005)
            assert _close(cells[6].partition("\n")[0], level["mean"], 0.005)
            assert f"cap {level['cap']:.2f}" in cells[6]
        assert "ceiling 20.00" in rows[2][6]
        assert "shut; the first: a skew-normal law does not fit" in rows[2][8]
        assert rows[3][0].replace("\\", "") == uploads["attack"]
        assert rows[3][-1] == "exact rank, nothing to extrapolate"
        assert len(rows) == 4
    paper = re.sub(r"\s+", " ", pdf_text(reports("full")["report_pdf"]))
    assert "exact rank, nothing to extrapolate" in paper
    assert f"{some['extrapolation']['mean']:.2f}" in paper


def test_the_ledger_says_what_is_left_and_what_a_round_costs(reports):
    for table in read(reports("full")["report_html"]).tables:
        if table[0][:3] == ["client", "releases", "epsilon spent"]:
            break
    last = audit_sample.full()["ledger"]["clients"][2]
    assert table[3][:2] == ["2", "60"]
    assert float(table[3][2]) == pytest.approx(last["epsilon"], abs=0.01)
    assert float(table[3][2]) >= last["epsilon"]
    assert float(table[3][3]) == pytest.approx(4.0 - last["epsilon"], abs=0.01)
    cost = last["by_round"][-1] - last["by_round"][-2]
    assert float(table[3][4]) == pytest.approx(cost, abs=0.01)
    page = " ".join(read(reports("full")["report_html"]).text)
    assert "refuses a round that would take it above 4" in page


def test_the_page_has_every_picture_with_words_for_it(reports):
    source = reports("full")["report_html"].read_text(encoding="utf-8")
    names = re.findall(r'<svg[^>]*aria-label="([^"]+)"', source)
    assert len([name for name in names if name.startswith("ROC curve of")]) == 2
    assert len([name for name in names if name.startswith("Histograms of canary")]) == 2
    assert (
        len([name for name in names if name.startswith("Bars of true and guessed")]) == MOST_CLIENTS
    )
    assert len([name for name in names if name.startswith("Epsilon spent by round")]) == 1
    assert len([name for name in names if name.startswith("Bars of mean exposure")]) == 1
    assert len(names) == source.count("<svg") == source.count("<title>") - 1
    reader = PdfReader(reports("full")["report_pdf"])
    assert sum(len(page.images) for page in reader.pages) == len(names)


def test_an_audit_of_nothing_says_so(reports):
    words = " ".join(read(reports("minimal")["report_html"]).text)
    assert "No attack ran." in words
    assert "no formal guarantee" in words
    assert "Could not tell" in words
    assert len(PdfReader(reports("minimal")["report_pdf"]).pages) >= 1


@pytest.mark.parametrize(("name", "told"), [("full", True), ("unproved", False)])
def test_rounds_are_told_where_any_epsilon_is_finite(reports, name, told):
    texts = (
        " ".join(read(reports(name)["report_html"]).text),
        pdf_text(reports(name)["report_pdf"]),
    )
    for text in texts:
        assert ("Epsilon spent after each round" in text) == told


def test_the_power_of_every_bound_is_printed(reports):
    words = " ".join(read(reports("full")["report_html"]).text)
    bounds = [row for row in audit_sample.full()["channels"] if row["eps_lb"] is not None]
    for row in bounds:
        ceiling = math.floor(100 * row["eps_ceiling"]) / 100
        least = math.ceil(100 * row["eps_detectable"]) / 100
        assert (
            f"with n = {row['n']} this audit can certify at most epsilon {ceiling:.2f}; its power "
            f"is 80 % where a perfect attack meets a true epsilon of {least:.2f}"
        ) in words
    assert f"{len(bounds)} lower bounds are shown" in words


def test_the_same_result_gives_the_same_files(tmp_path, reports):
    again = write_audit(audit_sample.full(), tmp_path)
    for form, path in reports("full").items():
        assert again[form].read_bytes() == path.read_bytes(), form
