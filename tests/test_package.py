"""What is installed is what is tracked, and the agent stays lean."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("collectors", "analysis", "dashboard")
SOURCES = sorted(
    p for part in (*PARTS, "wellfed") for p in (ROOT / part).rglob("*.py") if "__pycache__" not in p.parts
)


def tracked(*patterns: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.split())


def test_the_wheel_holds_every_tracked_module_and_asset(tmp_path: Path) -> None:
    # A clean copy: setuptools keeps what it once built in build/.
    source = tmp_path / "source"
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=ROOT, check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={tmp_path}", str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    modules = {f"wellfed/{name}" for name in tracked(*(f"{part}/*.py" for part in PARTS))}
    modules |= tracked("wellfed/*.py", "wellfed/py.typed")
    assert {name for name in held if name.endswith((".py", "py.typed"))} == modules
    assets = {f"wellfed/{name}" for name in tracked("dashboard/assets/*", "alerts", "deploy")}
    assert assets <= held


def test_the_agent_loads_neither_polars_nor_dash() -> None:
    code = (
        "import sys, io, contextlib\n"
        "from wellfed.cli import main\n"
        "sys.stdout = io.TextIOWrapper(io.BytesIO())\n"
        "status = main(['agent', '--once'])\n"
        "print(status, sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    status, _, modules = done.stderr.strip().splitlines()[-1].partition(" ")
    assert status == "0"
    heavy = {"polars", "dash", "plotly", "pandas", "numpy", "fastapi", "flask", "rich", "ray"}
    assert not heavy & set(ast.literal_eval(modules))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_dependencies_point_one_way() -> None:
    allowed = {
        "collectors": ("wellfed.collectors", "wellfed.errors", "wellfed.__version__", "wellfed.watch"),
        "analysis": (
            "wellfed.analysis",
            "wellfed.collectors.catalog",
            "wellfed.collectors.names",
            "wellfed.errors",
            "wellfed.prices",
            "wellfed.__version__",
        ),
        "dashboard": (
            "wellfed.dashboard",
            "wellfed.analysis",
            "wellfed.collectors.catalog",
            "wellfed.errors",
            "wellfed.prices",
            "wellfed.__version__",
        ),
    }
    for path in SOURCES:
        part = path.relative_to(ROOT).parts[0]
        for name in imports(path):
            if name in ("wellfed", "wellfed.collectors") or not name.startswith("wellfed."):
                continue
            if part == "wellfed":
                continue
            assert name.startswith(allowed[part]), f"{path.relative_to(ROOT)} imports {name}"


def test_files_stay_readable() -> None:
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
    assert not long
