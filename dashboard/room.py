"""How much of the past fits into memory at once: one click asks for a month, which takes gigabytes.

What a hub has judged is shown in longer steps then (`analysis.condensed`); what nobody judged is refused.
"""

from __future__ import annotations

import psutil

from wellfed.errors import UserError

__all__ = ["MOST", "free", "require"]

#: Windows of GPUs that a page works with; a range that holds more is shown in longer steps.
MOST = 600_000

#: Bytes that a GPU's window takes while its range is diagnosed and shown: 2.9 GB for 1.1 million.
WINDOW_BYTES = 2_700
_GROUP = "/sys/fs/cgroup/memory"


def require(windows: int, text: str, store: str) -> None:
    """Raises UserError where so many windows of GPUs do not fit. text: the range; store: its folder."""
    needed, room = windows * WINDOW_BYTES, free()
    if needed > room:
        raise UserError(
            f"{text} holds {windows:,} windows of GPUs, which take {needed / 2**30:.1f} GiB of memory where "
            f"{room / 2**30:.1f} are free. Choose a shorter range, or run `wellfed diagnose --lake {store}`, "
            "which goes hour by hour."
        )


def free(group: str = _GROUP) -> int:
    """Bytes that this process may still take: the machine's, or its control group's where that has less."""
    room = int(psutil.virtual_memory().available)
    try:
        most, used, cached = (
            _read(f"{group}.max"),
            int(_read(f"{group}.current")),
            _file(_read(f"{group}.stat")),
        )
        return room if most == "max" else min(room, int(most) - used + cached)
    except (OSError, ValueError):
        return room


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _file(stat: str) -> int:
    """What the page cache holds of a group's memory, and gives back."""
    return next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("file ")), 0)
