"""What `wellfed.watch` and `wellfed.step` cost a training loop, beside peers, in one run: python bench/watch.py

Peers: an empty context manager, and torch.profiler.record_function where torch is installed, which marks a
step in a profile that nobody takes. Each turn is an empty loop over range(N); the best of five rounds counts,
interleaved so that a slow moment hits all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import wellfed

N = 20_000
ROUNDS = 5


class Empty:
    """A context manager that does nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def bare() -> None:
    for _ in range(N):
        pass


def empty() -> None:
    for _ in range(N):
        with Empty():
            pass


def step() -> None:
    for _ in range(N):
        with wellfed.step(samples=8):
            pass


def watched() -> None:
    for _ in wellfed.watch(range(N)):
        pass


def both() -> None:
    for _ in wellfed.watch(range(N)):
        with wellfed.step(samples=8):
            pass


def three_phases() -> None:
    for _ in wellfed.watch(range(N)):
        with wellfed.step(samples=8):
            with wellfed.phase("h2d"):
                pass
            with wellfed.phase("comm"):
                pass


def record_function() -> Callable[[], None] | None:
    try:
        from torch.profiler import record_function as record
    except ImportError:
        return None

    def turn() -> None:
        for _ in range(N):
            with record("step"):
                pass

    return turn


def main() -> None:
    """Prints microseconds a step, and each as a multiple of an empty context manager."""
    turns: dict[str, Callable[[], None]] = {
        "empty context manager": empty,
        "wellfed.step()": step,
        "wellfed.watch(loader)": watched,
        "watch and step": both,
        "watch, step and two phases": three_phases,
    }
    marked = record_function()
    if marked is not None:
        turns["torch.profiler.record_function"] = marked
    best = dict.fromkeys([*turns, "bare"], float("inf"))
    for _ in range(ROUNDS):
        for name, turn in {"bare": bare, **turns}.items():
            begin = time.perf_counter()
            turn()
            best[name] = min(best[name], time.perf_counter() - begin)
    loop = best.pop("bare")
    unit = best["empty context manager"] - loop
    print(f"{'':<34}{'us a step':>10}{'x empty':>9}")
    for name, seconds in best.items():
        spent = seconds - loop
        print(f"{name:<34}{spent / N * 1e6:>10.2f}{spent / unit:>9.1f}")


if __name__ == "__main__":
    main()
