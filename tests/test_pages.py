"""Every page renders over a simulated fleet, over nothing, and over names that try to be markup."""

from __future__ import annotations

import asyncio
import csv
import inspect
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import dashboards
import numpy as np
import plotly
import pytest
from dashboards import EVIL, Fixed

from wellfed.analysis.notes import Notes
from wellfed.analysis.receiver import REASONS
from wellfed.analysis.trouble import key
from wellfed.dashboard import app, exports, tabular
from wellfed.dashboard.pages import inference
from wellfed.dashboard.registry import PAGES
from wellfed.dashboard.search import find
from wellfed.dashboard.theme import SKINS
from wellfed.dashboard.told import finding_link
from wellfed.dashboard.waterfall import waterfall
from wellfed.dashboard.words import amount, count, hours, money, share

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet()


@pytest.fixture(scope="module")
def nothing() -> Fixed:
    return dashboards.no_data()


def rendered(source: Fixed, path: str, search: str = "", theme: str = "dark") -> str:
    page = app.page(source, path, search, theme)
    return json.dumps([*page.crumbs, *page.main], cls=plotly.utils.PlotlyJSONEncoder)


def nodes(tree: object, kind: type) -> list[object]:
    """All values of a kind in a rendered page."""
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return ([tree] if isinstance(tree, kind) else []) + [n for part in inside for n in nodes(part, kind)]


def texts(tree: object) -> str:
    return " ".join(str(text) for text in nodes(tree, str))


def test_every_page_renders_with_one_heading_and_one_verdict_in_both_themes(source: Fixed) -> None:
    seen = list(dashboards.paths(source))
    assert len(seen) > 30
    for path in seen:
        for theme in SKINS:
            text = rendered(source, path, theme=theme)
            assert text.count('"H1"') == 1, path
            assert text.count('"id": "verdict"') == 1, path


def test_every_page_renders_over_nothing_and_names_the_next_command(nothing: Fixed) -> None:
    for path in dashboards.paths(nothing):
        assert rendered(nothing, path)
    for path in ("/", "/storage", "/pipeline", "/hosts", "/telemetry"):
        assert re.search(r"wellfed (up|agent)", rendered(nothing, path)), path


def test_a_name_that_is_markup_stays_text(source: Fixed) -> None:
    for path in dashboards.paths(source):
        page = json.loads(rendered(source, path))
        keys = [key for node in nodes(page, dict) for key in node]  # type: ignore[attr-defined]
        assert not {"dangerouslySetInnerHTML", "dangerously_allow_html"} & set(keys)
        # Plotly reads markup in what it draws, so names reach it escaped.
        figures = [n["figure"] for n in nodes(page, dict) if "figure" in n]  # type: ignore[index,operator]
        assert "<img" not in json.dumps(figures), path
    assert EVIL in nodes(json.loads(rendered(source, "/jobs")), str)


def exported(source: Fixed, name: str, path: str, search: str = "", simulated: bool = False) -> str:
    view = replace(app.view_of(source, path, search), whole=True)
    made = exports.export(name, view, simulated)
    assert made is not None
    return made.body.decode()


def test_the_report_has_no_markup_of_others_and_nothing_from_elsewhere(source: Fixed) -> None:
    for path in ("/efficiency", f"/job/{quote(EVIL, safe='')}"):
        report = exported(source, "report.html", path, simulated=True)
        assert "<img" not in report
        assert "&lt;img src=x" in report
        assert not re.search(r"<[^>]*(src|href)=|url\(|<script", report)
        assert "SIMULATED DATA" in report
    view = app.view_of(source, "/", "")
    assert exports.export("nonsense", view) is None
    assert exports.export("table.csv", view) is None
    assert exports.export("report.html", app.view_of(source, "/job/none", "")) is None


def test_the_diagnosis_is_exported_as_it_is_and_marked_when_it_is_simulated(source: Fixed) -> None:
    document = source.diagnosis.document
    assert json.loads(exported(source, "diagnosis.json", "/")) == document
    marked = json.loads(exported(source, "diagnosis.json", "/", simulated=True))
    assert "SIMULATED" in marked.pop("warnings")[0]
    assert marked.items() <= document.items()


def test_every_table_of_every_page_is_exported_with_all_rows_and_plain_numbers(source: Fixed) -> None:
    seen = 0
    for path in dashboards.paths(source):
        names = [name for name, _ in tabular.tables(list(app.page(source, path, "").main))]
        assert len(set(names)) == len(names), path
        for name in names:
            rows = list(csv.reader(io.StringIO(exported(source, "table.csv", path, f"table={quote(name)}"))))
            assert all(rows[0]), (path, name, rows[0])
            assert {len(row) for row in rows} == {len(rows[0])}, (path, name)
            seen += len(rows) - 1
    assert seen > 300
    text = exported(source, "table.csv", "/jobs", "table=Jobs")
    jobs = {row["Job"]: row for row in csv.DictReader(io.StringIO(text))}
    for job in source.diagnosis.document["jobs"]:
        row = jobs[job["name"] or job["job"]]
        assert float(row["GPU-h lost"]) == job["lost_seconds"] / 3600
        assert float(row["Cost ($)"]) == job["cost_lost"]


def test_an_export_holds_more_rows_than_the_page_shows(source: Fixed) -> None:
    view = app.view_of(source, "/findings", "")
    assert len(source.diagnosis.document["findings"]) > 1
    shown = view.first(source.diagnosis.document["findings"], 1)
    assert len(shown) == 1
    assert len(replace(view, whole=True).first(source.diagnosis.document["findings"], 1)) > 1


def test_the_csv_adds_up_to_the_document(source: Fixed) -> None:
    text = exported(source, "efficiency.csv", "/efficiency")
    rows = list(csv.DictReader(io.StringIO(text)))
    totals = source.diagnosis.document["totals"]
    for by in ("team", "user", "job", "cause"):
        lost = sum(float(r["gpu_hours_lost"]) for r in rows if r["by"] == by)
        assert lost == pytest.approx(totals["lost_seconds"] / 3600, abs=0.01)
    energy = sum(float(r["kwh"]) for r in rows if r["by"] == "team")
    assert energy == pytest.approx(totals["joules"] / 3.6e6, rel=0.01)


def test_a_spreadsheet_takes_no_name_for_a_formula() -> None:
    assert tabular.harmless("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert [tabular.harmless(name) for name in ("llama-70b", "")] == ["llama-70b", ""]


def test_the_numbers_of_the_page_are_those_of_the_document(source: Fixed) -> None:
    totals = source.diagnosis.document["totals"]
    text = texts(json.loads(rendered(source, "/")))
    assert f"{100 * totals['au']:.1f}" in text
    assert f"{totals['au']:.0%} of GPU time was productive" in text
    for path in ("/", "/efficiency"):
        assert hours(totals["lost_seconds"]) in texts(json.loads(rendered(source, path))), path


def test_callbacks_are_async_so_that_none_blocks_the_loop(source: Fixed) -> None:
    made = app.create_app(source)
    server_side = [c for c in made.callback_map.values() if "callback" in c]
    assert len(server_side) == 2
    for entry in server_side:
        function: Callable[..., object] = inspect.unwrap(entry["callback"])
        assert asyncio.iscoroutinefunction(function)


def test_keys_addresses_and_icons_of_pages_are_distinct() -> None:
    css = (ROOT / "dashboard/assets/icons.css").read_text()
    for part in ("path", "name", "key", "icon"):
        assert len({getattr(page, part) for page in PAGES}) == len(PAGES)
    assert all(f".ic-{page.icon} " in css for page in PAGES)


def test_the_documentation_names_every_page_with_its_key() -> None:
    text = (ROOT / "docs/dashboard.md").read_text()
    for page in PAGES:
        assert f"{page.name} `{page.path}`" in text
        assert f"`g {page.key}`" in text


def test_links_keep_the_range_and_drop_what_belongs_to_another_page(source: Fixed) -> None:
    view = app.view_of(source, "/findings", "?from=6h&sort=-lost&cause=cpu")
    assert view.here(cause="") == "/findings?from=6h&sort=-lost"
    assert view.here(from_="24h", to="") == "/findings?from=24h&sort=-lost&cause=cpu"
    assert view.to("/jobs") == "/jobs?from=6h"


def test_findings_are_filtered_and_sorted_as_the_address_says(source: Fixed) -> None:
    findings = source.diagnosis.document["findings"]
    cause = findings[0]["cause"]
    page = json.loads(rendered(source, "/findings", f"?cause={cause}"))
    links = [n["data-href"] for n in nodes(page, dict) if "data-href" in n]  # type: ignore[index,operator]
    assert [link.split("?")[0] for link in links] == [
        f"/findings/{key(f)}" for f in findings if f["cause"] == cause
    ]
    page = json.loads(rendered(source, "/findings", "?sort=lost"))
    links = [n["data-href"] for n in nodes(page, dict) if "data-href" in n]  # type: ignore[index,operator]
    cheapest = min(findings, key=lambda f: f["lost_gpu_seconds"])
    assert links[0].split("?")[0] == f"/findings/{key(cheapest)}"


def test_a_finding_is_found_again_when_its_id_has_moved_on(source: Fixed) -> None:
    finding = source.diagnosis.document["findings"][0]
    view = app.view_of(source, "/findings", "?from=15m")
    path, _, query = finding_link(view, finding).partition("?")
    assert query == "from=15m"
    # The same trouble, seen in a range that began ten minutes earlier.
    began = datetime.fromisoformat(finding["start"]) - timedelta(minutes=10)
    earlier = key({**finding, "id": "", "start": began.isoformat()})
    for asked in (path, f"/findings/{finding['id']}", f"/findings/{earlier}"):
        assert hours(finding["lost_gpu_seconds"]) in texts(json.loads(rendered(source, asked, query)))
    assert "not in the range" in rendered(source, "/findings/0123456789ab", "from=15m")


def test_search_finds_gpus_hosts_jobs_and_users(source: Fixed) -> None:
    view = app.view_of(source, "/", "?from=6h")
    gpu = source.diagnosis.document["gpus"][0]
    kinds = {
        hit.kind: hit for words in (gpu["gpu"], gpu["host"], "notebook", "bruno") for hit in find(view, words)
    }
    assert set(kinds) == {"GPU", "host", "job", "user"}
    assert find(view, gpu["host"])[0].href == f"/host/{gpu['host']}?from=6h"
    assert find(view, gpu["gpu"])[0].href == f"/gpu/{gpu['host']}/{gpu['index']}?from=6h"
    assert find(view, "bruno")[0].href == "/jobs?from=6h&user=bruno"
    assert find(view, "no such thing") == find(view, " ") == []


def test_the_colours_of_figures_are_those_of_the_style_sheet() -> None:
    css = (ROOT / "dashboard/assets/a-tokens.css").read_text()
    for skin in SKINS.values():
        block = re.search(rf'data-theme="{skin.name}"\] {{(.*?)}}', css, re.S)
        assert block is not None
        tokens = dict(re.findall(r"--([\w-]+): (#\w+);", block[1]))
        expected = {
            **skin.families,
            "card": skin.surface,
            "ink": skin.ink,
            "ink-2": skin.ink_2,
            "ink-3": skin.ink_3,
        }
        expected |= {"productive": skin.productive, "no-data": skin.no_data, "other": skin.other}
        assert {name: tokens[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ((0.0, 0.0, 0.0, 0.0, 0, 0.0), "no traffic"),
        ((2.0, 0.0, 0.01, 0.02, 0, 0.0), "too little load"),
        ((80.0, 9.0, 0.3, 0.97, 0, 0.4), "KV cache"),
        ((80.0, 0.0, 0.3, 0.5, 3, 0.0), "KV cache"),
        ((250.0, 9.0, 0.98, 0.5, 0, 0.7), "batch size"),
        ((40.0, 9.0, 0.2, 0.3, 0, 0.8), "prefill"),
        ((120.0, 0.0, 0.5, 0.4, 0, 0.1), "decode"),
        ((120.0, 0.0, None, None, 0, 0.1), "too little load"),
    ],
)
def test_what_limits_an_inference_server(facts: tuple[float, ...], told: str) -> None:
    assert inference.limit(*facts) == told


def test_a_waterfall_ends_at_what_is_left(source: Fixed) -> None:
    view = app.view_of(source, "/", "")
    markup = waterfall(view, 3600.0, [("storage.remote", 900.0), ("unknown", 1.0)], "all", "left")
    made = texts(json.loads(json.dumps(markup, cls=plotly.utils.PlotlyJSONEncoder)))
    assert "0.25 h · 25 %" in made
    assert "0.75 h · 75 %" in made
    # Too little to be named, and too little to be told at all.
    assert "Unknown" not in made


def test_numbers_are_said_with_the_digits_that_mean_something() -> None:
    assert [count(v) for v in (0, 12345.6, 12.34, 0.0421, 0.0002)] == [
        "0",
        "12,346",
        "12.3",
        "0.0421",
        "<0.001",
    ]
    assert [money(v) for v in (None, 0.5, 1234.5)] == ["–", "$0.50", "$1,234"]
    assert [share(v) for v in (None, float("nan"), 0, 0.0314, 0.7)] == ["–", "–", "0 %", "3.1 %", "70 %"]
    assert [amount(v, "B/s") for v in (None, 1e-9, 12.0, 2.1e9)] == ["–", "0 B/s", "12 B/s", "2.1 GB/s"]


def test_markup_in_the_address_is_shown_as_text(source: Fixed) -> None:
    page = json.loads(rendered(source, "/<script>alert(1)</script>"))
    assert any("<script>" in str(text) for text in nodes(page, str))
    assert np.isfinite(source.diagnosis.document["totals"]["au"])


def test_muted_findings_leave_lists_and_counts_and_come_back(source: Fixed) -> None:
    notes = Notes()
    findings = source.diagnosis.document["findings"]
    for finding in findings:
        notes.say(finding, "mute", "ada", until=datetime.now(UTC) + timedelta(days=1))

    def told(search: str = "") -> str:
        page = app.page(source, "/findings", search, notes=notes)
        return texts(json.loads(json.dumps(list(page.main), cls=plotly.utils.PlotlyJSONEncoder)))

    assert "All findings are muted" in told()
    assert told("?state=muted").count("muted by ada until") == len(findings)
    for note in notes.history():
        notes.undo(note.id, "bo")
    assert "muted by" not in told("?state=muted")
    assert f"{len(findings)} findings" in told()


def test_every_chart_has_a_summary_and_a_table_twin(source: Fixed) -> None:
    charts = 0
    for path in dashboards.paths(source):
        page = json.loads(rendered(source, path))
        cards = [
            n for n in nodes(page, dict) if "card" in str(n.get("props", {}).get("className", "")).split()
        ]  # type: ignore[attr-defined]
        for card in cards:
            inside = [n["type"] for n in nodes(card, dict) if "type" in n]  # type: ignore[index,operator]
            drawn = inside.count("Graph")
            assert inside.count("Figcaption") == drawn, path
            assert inside.count("Table") >= drawn, path
            charts += drawn
    assert charts > 20


def test_the_table_of_a_chart_is_exported_point_by_point(source: Fixed) -> None:
    gpu = source.diagnosis.document["gpus"][0]
    path = f"/gpu/{gpu['host']}/{gpu['index']}"
    text = exported(source, "table.csv", path, f"table={quote('Signals of the GPU')}")
    points = list(csv.DictReader(io.StringIO(text)))
    assert len(points) > 50
    active = [float(p["Compute: SM active (%)"]) for p in points if p["Compute: SM active (%)"]]
    assert len(active) > 50
    assert all(0 <= value <= 100 for value in active)
    assert points[0]["Time, UTC"] < points[-1]["Time, UTC"]


def test_docs_have_a_picture_of_every_page_in_both_themes() -> None:
    names = {page.name.lower() for page in PAGES} | {"finding", "job", "gpu", "host"}
    taken = {path.stem for path in (ROOT / "docs/pictures").glob("*.png")}
    assert taken == {f"{name}-{theme}" for name in names for theme in SKINS}
    assert sum(path.stat().st_size for path in (ROOT / "docs/pictures").glob("*.png")) < 2_500_000


def test_what_the_hub_refused_is_told_with_what_to_do(source: Fixed) -> None:
    assert "Refused by the hub" not in rendered(source, "/telemetry")
    refused = dict.fromkeys(REASONS, 0)
    made = Fixed(source.tables, source.diagnosis)
    made.made = replace(source.made, refused=refused, _derived={})
    assert "Nothing was refused" in rendered(made, "/telemetry")
    made.made = replace(source.made, refused={reason: n for n, reason in enumerate(REASONS, 1)}, _derived={})
    text = exported(made, "table.csv", "/telemetry", f"table={quote('Points refused by the hub')}")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["Reason"]: float(row["Points"]) for row in rows} == made.made.refused
    assert all(row["What to do"] for row in rows)


def test_a_machine_without_a_gpu_has_every_page() -> None:
    machine = dashboards.one_host()
    assert machine.diagnosis.document["gpus"] == []
    for path in dashboards.paths(machine):
        assert rendered(machine, path)
    assert "See GPUs without having any" in rendered(machine, "/")
