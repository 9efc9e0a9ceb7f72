"""`make chaos`: all of tests/chaos, part after part, each a few minutes long.

    python tests/chaos/parts.py [--out build/chaos] [PART ...]

A part is a test file without its `test_`. What a part tried and lost is kept in OUT/PART.json when it passes;
parts that are there are not run again, so that a run which was cut short goes on where it was: remove OUT to
begin anew. At the end one table of all parts is printed. Exit status 1 when a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = tuple(sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py")))


def run(part: str, out: Path) -> bool:
    """Runs a part on all cores; notes what it tried when it passed."""
    notes = out / f"{part}.notes"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "auto",
        "--dist",
        "loadgroup",
        "-p",
        "no:cacheprovider",
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*command, str(HERE / f"test_{part}.py")],
        cwd=ROOT,
        env={**os.environ, "WELLFED_CHAOS": "full", "WELLFED_CHAOS_NOTES": str(notes)},
    )
    if done.returncode != 0:
        return False
    found = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - began),
        "notes": json.loads(notes.read_text()),
    }
    (out / f"{part}.json").write_text(json.dumps(found, indent=1))
    notes.unlink()
    return True


def commit() -> str:
    """The short name of the commit that is tried, with + for changes since; "" outside a repository."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True
    )
    return told.stdout.strip()


def table(out: Path) -> str:
    """What all parts tried, in Markdown."""
    lines = ["| part | what | tried | lost |", "|---|---|---|---|"]
    told: dict[str, None] = {}
    for path in sorted(out.glob("*.json")):
        found: dict[str, Any] = json.loads(path.read_text())
        name = f"{path.stem} ({found['seconds']} s)"
        for what, (tried, lost) in sorted(found["notes"].items()):
            lines.append(f"| {name} | {what} | {tried:,} | {lost:,} |")
            name = ""
        told[
            f"{found['at'][:10]}, commit {found['commit']}, Python {found['python']}, {found['machine']}"
        ] = None
    return "\n".join([*lines, "", *told])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chaos")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in options.parts or PARTS:
        if not (options.out / f"{part}.json").exists() and not run(part, options.out):
            failed.append(part)
    print(table(options.out))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
