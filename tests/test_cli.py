"""The command line: help, precedence, and one clear line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wellfed import __version__
from wellfed.cli import COMMANDS, main
from wellfed.errors import UserError
from wellfed.options import OPTIONS, resolve
from wellfed.prices import Prices
from wellfed.values import parse_size, parse_time


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wellfed", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(p for p in sys.path if p), **environ},
    )


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"wellfed {__version__}\n"
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = [OPTIONS[option].flag for option in COMMANDS[name].options if not OPTIONS[option].table]
    assert all(flag in text for flag in flags)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    config = tmp_path / "wellfed.toml"
    config.write_text('address = "file:1"\nretention_days = 3\nprice = 2\n')
    environ = {"WELLFED_CONFIG": str(config), "WELLFED_RETENTION_DAYS": "4", "WELLFED_PRICE": "5"}
    names = ("address", "retention_days", "price", "metrics_address")
    assert resolve(names, {"price": "6"}, environ) == {
        "address": "file:1",
        "retention_days": 4.0,
        "price": Prices(6.0),
        "metrics_address": "127.0.0.1:9812",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics_adress = 'x'", "unknown key 'metrics_adress'; did you mean 'metrics_address'"),
        ("price = [1]", "price takes one value"),
        ("price = 'cheap'", "price is 'cheap'"),
        ("price", "is not TOML"),
    ],
)
def test_a_bad_configuration_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "wellfed.toml"
    config.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        resolve(("price",), {"config": str(config)}, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dagnose"], "unknown command 'dagnose'; did you mean 'diagnose'?"),
        (["diagnose", "--data", "/nonexistent/x"], "/nonexistent/x"),
        (["diagnose", "--price", "-1"], "--price is '-1': must be above 0"),
        (["diagnose", "--from", "yesterday"], "--from is 'yesterday': write a time"),
        (["agent", "--collectors", "cpu,nvmll"], "no collector is called 'nvmll'"),
        (["agent", "--metrics-address", "9812"], "is not an address"),
        (["agent", "--config", "/nonexistent.toml"], "cannot read the configuration /nonexistent.toml"),
        (["agent", "--log-level", "loud"], "write one of debug"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unknown_flag_is_no_traceback() -> None:
    done = run("agent", "--onec")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m wellfed agent --once | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(p for p in sys.path if p)},
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("# HELP ")


def test_sizes_and_times() -> None:
    assert [parse_size(x) for x in ("10", "2k", "20GB", "1.5 MiB", "1TiB")] == [
        10,
        2000,
        20 * 10**9,
        1572864,
        1024**4,
    ]
    for wrong in ("GB", "-1", "1XB"):
        with pytest.raises(ValueError, match="20GB"):
            parse_size(wrong)
    assert parse_time("2026-05-01T12:00") == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert parse_time("2026-05-01T12:00+02:00") == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert abs(datetime.now(UTC) - parse_time("6h") - timedelta(hours=6)) < timedelta(seconds=5)
