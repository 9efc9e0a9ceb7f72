"""Work that goes on beside the main thread while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Background"]


class Background:
    """Runs `work` on a daemon thread from entering the block to leaving it.

    work: called once with an event that is set when the block ends; it must return soon after.
    """

    def __init__(self, name: str, work: Callable[[threading.Event], None]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=work, args=(self._stop,), name=name, daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(3)
