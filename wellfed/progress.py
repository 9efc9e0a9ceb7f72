"""A line on standard error for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wellfed.errors import bare

__all__ = ["progress"]

#: Seconds of silence before the first sign of life.
QUIET = 2.0
#: Characters of the bar.
WIDTH = 30


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Shows `what` with the time it takes, on a terminal in place, elsewhere as one line.

    What it yields may be told the share that is done, 0..1; a terminal then shows a bar.
    """
    done = threading.Event()
    share: list[float] = []
    thread = threading.Thread(target=_show, args=(bare(what), done, share), daemon=True)
    thread.start()
    try:
        yield share.append
    finally:
        done.set()
        thread.join()


def _show(what: str, done: threading.Event, share: list[float]) -> None:
    if done.wait(QUIET):
        return
    if not sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr, flush=True)
        return
    seconds = QUIET
    while not done.is_set():
        print(f"\r\033[K{what} ...{_bar(share)} {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        done.wait(1)
        seconds += 1
    print("\r\033[K", end="", file=sys.stderr, flush=True)


def _bar(share: list[float]) -> str:
    if not share:
        return ""
    part = min(1.0, max(0.0, share[-1]))
    return f" {'█' * round(WIDTH * part):░<{WIDTH}} {part:.0%}"
