"""Writes the golden scrape anew (make golden). Look at the difference before you commit it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NODE = HERE.parent / "fixtures" / "node"
MOVING = re.compile(r"(wellfed_collector_(duration|last_success)_seconds|wellfed_build_info)\{|process_")
SOURCES = "cpu,disk,ethtool,infiniband,lustre,memory,mountstats,network,nvidia_fs,pressure"

body = subprocess.run(
    [
        sys.executable,
        "-m",
        "wellfed",
        "agent",
        "--once",
        f"--collectors={SOURCES}",
        f"--procfs={NODE}/proc",
        f"--sysfs={NODE}/sys",
    ],
    capture_output=True,
    text=True,
    check=True,
).stdout.replace(str(NODE), "NODE")
kept = [line for line in body.splitlines(keepends=True) if not MOVING.match(line)]
(HERE / "scrape.txt").write_text("".join(kept))
