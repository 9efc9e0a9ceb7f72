"""The table's notes, and a disk and a clock that fail on demand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from attempts import Note
from faulty import Faults

HERE = Path(__file__).parent


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Takes notes for the table of this run."""

    def record(what: str, tried: int, lost: int) -> None:
        request.node.user_properties.append(("chaos", [what, tried, lost]))

    return record


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "faults.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", str(out), str(HERE / "faults.c"), "-ldl"], check=True)
    return out


@pytest.fixture
def faults(library: Path, tmp_path: Path) -> Faults:
    folder = tmp_path / "faulty"
    folder.mkdir()
    return Faults(library, tmp_path / "faults", folder)
