"""A line on standard error for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["progress"]

#: Seconds of silence before the first sign of life.
QUIET = 2.0


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Shows `what` with the time it takes, on a terminal in place, elsewhere as one line."""
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(what, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(what: str, done: threading.Event) -> None:
    if done.wait(QUIET):
        return
    if not sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr, flush=True)
        return
    seconds = QUIET
    while not done.is_set():
        print(f"\r{what} ... {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        done.wait(1)
        seconds += 1
    print("\r\033[K", end="", file=sys.stderr, flush=True)
