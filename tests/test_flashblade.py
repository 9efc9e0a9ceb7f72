"""Storage arrays: FlashBlade's exporter, any other by a mapping, and the tables of the configuration file."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path

import pytest
from exporters import exporter
from hypothesis import given
from hypothesis import strategies as st
from programs import free_port

from wellfed.cli import main
from wellfed.collectors.arrays import read_arrays
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.endpoints import Array, Endpoints
from wellfed.collectors.flashblade import Flashblade, parse
from wellfed.collectors.flashblade_names import FLASHBLADE
from wellfed.collectors.registry import Roots, Row
from wellfed.errors import UserError
from wellfed.options import resolve

BLADE = b"""\
# HELP purefb_array_performance_latency_usec FlashBlade array latency
# TYPE purefb_array_performance_latency_usec gauge
purefb_array_performance_latency_usec{dimension="usec_per_read_op",protocol="NFS"} 1500
purefb_array_performance_latency_usec{dimension="usec_per_write_op",protocol="NFS"} 2500
purefb_array_performance_latency_usec{dimension="usec_per_other_op",protocol="NFS"} 300
purefb_array_performance_throughput_iops{dimension="reads_per_sec",protocol="NFS"} 9000
purefb_array_performance_throughput_iops{dimension="writes_per_sec",protocol="NFS"} 100
purefb_array_performance_throughput_iops{dimension="others_per_sec",protocol="NFS"} 50
purefb_array_performance_bandwidth_bytes{dimension="read_bytes_per_sec",protocol="NFS"} 4e9
purefb_array_performance_bandwidth_bytes{dimension="write_bytes_per_sec",protocol="NFS"} 1e8
purefb_array_performance_average_bytes{dimension="bytes_per_read",protocol="NFS"} 1e5
purefb_array_performance_latency_usec{dimension="usec_per_read_op",protocol="all"} 1200
purefb_array_space_bytes{space="capacity",type="array"} 1e14
purefb_array_space_bytes{space="total_physical",type="array"} 2.5e13
purefb_array_space_bytes{space="total_physical",type="file-system"} 1e13
purefb_array_http_specific_performance_latency_usec{dimension="usec_per_read_dir_op"} 9
"""
NFS = {
    "read_latency_seconds": 0.0015,
    "write_latency_seconds": 0.0025,
    "other_latency_seconds": 0.0003,
    "read_ops_per_second": 9000.0,
    "write_ops_per_second": 100.0,
    "other_ops_per_second": 50.0,
    "read_bytes_per_second": 4e9,
    "write_bytes_per_second": 1e8,
}
MAPPED = """
[array.filer2]
url = "http://filer-exporter:9/metrics"
protocol_label = "proto"
[array.filer2.columns]
read_latency_seconds = {metric = "lat_ms", factor = 0.001, where = {op = "read|get"}}
read_bytes_per_second = "read_rate"
used_bytes = {metric = "space", where = {kind = "used"}}
capacity_bytes = {metric = "space", where = {kind = "size"}}
"""


def values(rows: list[Row]) -> dict[tuple[str, ...], dict[str, float | None]]:
    return {row.key: row.values for row in rows}


def test_flashblade_has_a_row_for_each_protocol_and_the_space_in_that_of_all() -> None:
    found = values(parse(BLADE, "blade1", FLASHBLADE))
    assert found.keys() == {("blade1", "nfs"), ("blade1", "all")}
    assert found["blade1", "nfs"] == pytest.approx(NFS)
    assert found["blade1", "all"] == pytest.approx({"read_latency_seconds": 0.0012, "used_ratio": 0.25})


def test_flashblade_fills_every_column_of_its_table() -> None:
    found = values(parse(BLADE, "blade1", FLASHBLADE))
    filled = {column for columns in found.values() for column in columns}
    assert filled == {column.name for column in TABLES["array"].signals}


def test_the_exporter_before_it_is_understood_too() -> None:
    text = (
        b'purefb_array_performance_latency_usec{dimension="read",protocol="nfs"} 1500\n'
        b'purefb_array_performance_iops{dimension="read",protocol="nfs"} 9000\n'
        b'purefb_array_performance_throughput_bytes{dimension="write",protocol="nfs"} 1e8\n'
    )
    assert values(parse(text, "b", FLASHBLADE)) == {
        ("b", "nfs"): pytest.approx(
            {"read_latency_seconds": 0.0015, "read_ops_per_second": 9000, "write_bytes_per_second": 1e8}
        )
    }


def test_any_other_exporter_is_read_by_a_mapping() -> None:
    (array,) = read_arrays(tomllib.loads(MAPPED)["array"])
    text = (
        b'lat_ms{op="read",proto="NFS",node="a"} 2\nlat_ms{op="get",proto="NFS",node="b"} 5\n'
        b'lat_ms{op="write",proto="NFS"} 99\nread_rate{proto="NFS",node="a"} 1e6\nread_rate{proto="NFS",node="b"} 2e6\n'
        b'space{kind="used"} 30\nspace{kind="size"} 40\n'
    )
    assert values(parse(text, array.name, array.columns)) == {
        ("filer2", "nfs"): pytest.approx({"read_latency_seconds": 0.005, "read_bytes_per_second": 3e6}),
        ("filer2", "all"): {"used_ratio": 0.75},
    }


@given(st.binary(max_size=100))
def test_hostile_bytes_are_read_or_refused(tail: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(b'purefb_array_space_bytes{space="capacity"' + tail, "b", FLASHBLADE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[array.b]\nurll = 'x'", "array.b: unknown key 'urll'; did you mean 'url'?"),
        ("[array.b]\n", "array.b: url is missing"),
        ("[array.b]\nurl = 5", "array.b.url is 5: write a text"),
        ("[array.b]\nurl = 'ftp://x'", "array.b.url: write an address such as"),
        ("array = 3", "array is 3: write a table [array.NAME]"),
        ("[array]\nb = 1", "array.b is 1: write a table"),
        ("[array.b]\nurl='h:1'\ntoken_file='a'\nauthorization_file='b'", "array.b: name a token_file or"),
        ("[array.b]\nurl='h:1'\nprotocol='nfs'", "array.b: protocol needs [array.b.columns]"),
        ("[array.b]\nurl='h:1'\n[array.b.columns]\n", "array.b.columns is empty"),
        ("[array.b]\nurl='h:1'\n[array.b.columns]\nread_lat='m'", "array.b.columns: unknown key 'read_lat'"),
        (
            "[array.b]\nurl='h:1'\n[array.b.columns]\nused_ratio={}",
            "array.b.columns.used_ratio: metric is missing",
        ),
        (
            "[array.b]\nurl='h:1'\n[array.b.columns]\nused_ratio={metric='m', factor=0}",
            "array.b.columns.used_ratio.factor is 0: write a number above 0",
        ),
        (
            "[array.b]\nurl='h:1'\n[array.b.columns]\nused_ratio={metric='m{x=\"1\"}'}",
            "labels go into where",
        ),
        (
            "[array.b]\nurl='h:1'\n[array.b.columns]\nused_ratio={metric='m', where={x='('}}",
            "array.b.columns.used_ratio.where.x is '('",
        ),
        ("arrays = 3", "unknown key 'arrays'; did you mean 'array'?"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "wellfed.toml"
    config.write_text(text)
    with pytest.raises(UserError) as raised:
        resolve(("array",), {"config": str(config)}, {})
    assert str(raised.value).startswith(f"{config}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_array_is_read_with_its_token_from_the_configuration_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, config = tmp_path / "token", tmp_path / "wellfed.toml"
    token.write_text("t0p-secret\n")
    with exporter(BLADE) as server:
        config.write_text(f'[array.blade1]\nurl = "{server.url}/array?endpoint=x"\ntoken_file = "{token}"\n')
        arguments = ["--config", str(config), "--collectors", "flashblade"]
        assert main(["agent", "--once", *arguments]) == 0
        page = capsys.readouterr().out
        assert 'wellfed_array_read_latency_seconds{array="blade1",protocol="nfs"} 0.0015' in page
        path, headers = server.requests[0]
        assert (path, headers["Authorization"]) == ("/metrics/array?endpoint=x", "Bearer t0p-secret")
        server.status = 403
        assert main(["doctor", "--json", *arguments]) == 0
        told = capsys.readouterr().out
    assert "HTTP 403" in told
    assert "check the token in its file" in told
    assert "t0p-secret" not in page + told


def test_one_array_that_is_absent_or_broken_does_not_cost_the_others(tmp_path: Path) -> None:
    gone = f"127.0.0.1:{free_port()}"
    with (
        exporter(BLADE) as good,
        exporter(b"purefb_array_space_bytes much\n") as bad,
        exporter(b"x 1\n") as empty,
    ):
        tables = {
            name: {"url": url}
            for name, url in {"a": good.url, "b": bad.url, "c": empty.url, "d": gone}.items()
        }
        arrays: tuple[Array, ...] = read_arrays(tables)
        collector = Flashblade()
        rows = collector.read(Roots(endpoints=Endpoints(arrays=arrays)), 0.0)
        collector.close()
        assert {row.key[0] for row in rows} == {"a"}
        for told in (f"nothing listens at http://{gone}", f"{bad.url}: expected", "[array.c] maps"):
            assert told in collector.reason
        alone = Flashblade()
        with pytest.raises(ValueError, match="expected"):
            alone.read(Roots(endpoints=Endpoints(arrays=arrays[1:2])), 0.0)
        alone.close()


def test_without_an_array_in_the_configuration_nothing_is_asked() -> None:
    collector = Flashblade()
    assert collector.read(Roots(), 0.0) == []
    assert "no storage array is named" in collector.reason


def test_the_examples_in_the_documentation_are_taken_as_they_stand() -> None:
    page = (Path(__file__).parent.parent / "docs" / "arrays.md").read_text()
    examples = page.split("```toml\n")[1:]
    arrays = [
        array for text in examples for array in read_arrays(tomllib.loads(text.split("```")[0])["array"])
    ]
    assert [array.name for array in arrays] == ["blade1", "filer2"]
