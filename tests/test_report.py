"""Reports: the verdict in every format, narrowed to a job or a user, nobody's name as markup."""

from __future__ import annotations

import csv
import json
import re
from html import unescape
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.report import content, markdown, page, rows, terminal
from wellfed.analysis.scenarios import simulate
from wellfed.cli import main
from wellfed.errors import UserError
from wellfed.prices import Prices

EVIL = "<img src=x onerror=alert(1)>|*`"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    tables = {name: frame.lazy() for name, frame in simulate("shared-filer", seed=3).tables.items()}
    return diagnose(tables, price=2.0).document


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, frame in simulate("nfs-slow-server", seed=3, duration=1500.0).tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def test_the_verdict_comes_before_evidence_and_steps_in_every_format(document: dict[str, Any]) -> None:
    report = content.build(document)
    finding = report.findings[0]
    assert "Remote file system slow" in finding.title
    for text in (
        terminal.render(report, 4000),
        markdown.render(report).replace("\\", ""),
        unescape(page.render(report)),
    ):
        places = [text.index(part) for part in (report.verdict, finding.evidence[0][0], finding.steps[0])]
        assert places == sorted(places)


def test_a_job_report_holds_that_job_alone_and_its_own_totals(document: dict[str, Any]) -> None:
    job = max(document["jobs"], key=lambda j: j["lost_seconds"])
    part = content.narrow(document, job["job"], None)
    assert [j["job"] for j in part["jobs"]] == [job["job"]]
    assert part["totals"]["lost_seconds"] == job["lost_seconds"]
    assert part["totals"]["cost_lost"] == pytest.approx(job["lost_seconds"] / 3600 * 2.0)
    assert {g["job"] for g in part["gpus"]} == {job["job"]}
    assert part["findings"]
    assert content.build(document, job["job"]).title.endswith(f"({job['job']})")
    healthy = min(document["jobs"], key=lambda j: j["lost_seconds"])
    assert content.build(document, healthy["job"]).state == "fed"


def test_a_user_report_adds_their_jobs_up(document: dict[str, Any]) -> None:
    user = document["jobs"][0]["user"]
    mine = [j for j in document["jobs"] if j["user"] == user]
    part = content.narrow(document, None, user)
    assert part["totals"]["lost_seconds"] == pytest.approx(sum(j["lost_seconds"] for j in mine))
    assert sum(part["totals"]["by_cause"].values()) == pytest.approx(part["totals"]["lost_seconds"])


def test_an_unknown_job_names_the_nearest(document: dict[str, Any]) -> None:
    known = document["jobs"][0]["job"]
    with pytest.raises(UserError, match=re.escape(f"did you mean {known!r}")):
        content.build(document, known + "0")


class Tags(HTMLParser):
    """Collects elements and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_names_are_text_in_html_and_markdown_and_no_formula_in_csv(document: dict[str, Any]) -> None:
    jobs = [{**document["jobs"][0], "name": EVIL, "user": "=HYPERLINK()"}, *document["jobs"][1:]]
    changed = {**document, "jobs": jobs}
    report = content.build(changed)
    html = page.render(report)
    tags = Tags()
    tags.feed(html)
    assert not {"img", "script", "link", "iframe"} & set(tags.tags)
    assert not {"src", "href", "onerror"} & set(tags.attributes)
    assert "http" not in html
    assert "\\<img" in markdown.render(report)
    cells = [row["user"] for row in csv.DictReader(StringIO(rows.render(changed)))]
    assert "'=HYPERLINK()" in cells


def test_csv_columns_add_up_to_the_document(document: dict[str, Any]) -> None:
    table = list(csv.DictReader(StringIO(rows.render(document))))
    for column, total in (
        ("lost_gpu_seconds", sum(j["lost_seconds"] for j in document["jobs"])),
        ("covered_gpu_seconds", sum(j["covered_seconds"] for j in document["jobs"])),
        ("joules", sum(j["joules"] for j in document["jobs"])),
    ):
        assert sum(float(row[column] or 0) for row in table) == pytest.approx(total), column


def test_the_command_writes_each_format_whole_or_says_why_not(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, begin in (
        ("r.html", "<!DOCTYPE html>"),
        ("r.md", "# All GPUs"),
        ("r.csv", "from,to,job"),
        ("r.json", "{"),
    ):
        assert main(["report", f"--data={data}", f"--out={tmp_path / name}", "--price=H100=3,2"]) == 0
        assert (tmp_path / name).read_text().startswith(begin)
    assert json.loads((tmp_path / "r.json").read_text())["price_per_gpu_hour"] in (2.0, 3.0)
    assert main(["report", f"--data={data}"]) == 0
    assert "GPU-hours" in capsys.readouterr().out
    for arguments, message in (
        (["--format=pdf"], "write one of text, html"),
        (["--job=nobody"], "no job 'nobody'"),
        (["--job=a", "--user=b"], "do not go together"),
        ([f"--out={tmp_path}/no/where.html"], "cannot write"),
        (["--price=gold"], "write a price"),
    ):
        assert main(["report", f"--data={data}", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv", "r.html", "r.json", "r.md"]


@pytest.mark.parametrize("text", ["", "-1", "H100=", "=2", "1,2", "nan", "H100=inf", "cheap"])
def test_bad_prices_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"price|above 0|names no model"):
        Prices.parse(text)


def test_prices_are_by_model_with_a_default() -> None:
    prices = Prices.parse("H100=2.98, A100 = 1.29, 2.5")
    assert [prices.of(m) for m in ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "MI300X", None)] == [
        2.98, 1.29, 2.5, 2.5,
    ]  # fmt: skip
    assert Prices.parse("H100=1").of("A100") is None
