"""The examples of docs/loop.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs/loop.md").read_text(), re.DOTALL | re.MULTILINE)
#: What a block needs that the tests do not install -> the names it uses of it.
STAND_INS = {
    "transformers": "import sys, types\nsys.modules['transformers'] = types.SimpleNamespace(TrainerCallback=object)\n"
    "trainer = types.SimpleNamespace(add_callback=lambda callback: callback.on_train_begin(None, None, None))\n",
    "opentelemetry-exporter-otlp-proto-http": "import sys, types\n"
    "from opentelemetry.sdk.metrics.export import ConsoleMetricExporter as One\n"
    "sys.modules['opentelemetry.exporter.otlp.proto.http.metric_exporter'] = types.SimpleNamespace(OTLPMetricExporter=One)\n",
}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number: int, tmp_path: Path) -> None:
    language, text = BLOCKS[number]
    needs = re.match(r"# needs (\S+)", text)
    before = STAND_INS[needs[1]] if needs else ""
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    command = (
        ["sh", "-euc", text] if language == "sh" else [sys.executable, "-W", "error", "-c", before + text]
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environ = {
        **os.environ,
        "PYTHONPATH": path,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WELLFED_SOCKET": str(tmp_path / "none.sock"),
    }
    ran = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_there_are_blocks_to_run() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
