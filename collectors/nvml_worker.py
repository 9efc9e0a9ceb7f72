"""The process that talks to the NVIDIA driver, so that the agent never does: `python -m` this module.

What: opens the GPUs, samples them and keeps the shared page up to date. A driver call that hangs hangs this
process alone; the agent sees the heartbeat stop, kills it and starts another that leaves out that call on
that GPU for a while. It ends with its parent (end of file on standard input), with the driver (the library in
memory no longer fits a reloaded one) and when GPUs come, go or come back. Cost: 15 MiB, and 0.2 % of a core
with 8 GPUs at 10 Hz without the driver's own part, 1.1 % with that of an H100's (docs/hardware.md); beyond
BUDGET it samples less often. Privilege: that of the agent.

Started with one argument, a JSON object: page (descriptor), sys, proc (roots), tick and period (seconds
between reads and between GPM samples), retry (factor on every back-off), reopen (seconds before a lost GPU is
looked for again), skip ([[GPU number, call, seconds]]).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pynvml

from wellfed.collectors.nvml_calls import Context, DriverGoneError, GpuLostError
from wellfed.collectors.nvml_page import NULLS, Writer
from wellfed.collectors.nvml_session import Gpu, Session
from wellfed.collectors.nvml_xid import Xids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wellfed.collectors.gpm import Gpm
    from wellfed.collectors.nvml_device import Device
    from wellfed.collectors.nvml_page import Described

__all__ = ["FAILED", "GONE", "REOPEN", "Worker", "main", "turn", "until_tick"]

#: Exit codes: something unforeseen; no driver to talk to; start me again, the GPUs have changed.
FAILED, GONE, REOPEN = 70, 71, 72
#: CPU seconds a second that GPM may cost; dearer hardware is sampled less often.
BUDGET = 0.01

#: Share of a tick by which the page is ready before the agent reads it, at whole ticks of the wall clock.
_LEAD = 0.3
#: Ticks from one read of what is dear to the next.
_SLOW = 10
_PIDS = 256


def until_tick(wall: float, tick: float) -> float:
    """Seconds from that time of the wall clock to the next tick: at the same place between two reads of the
    agent, so that each read finds one more, neither none nor two. Half a tick at least.
    """
    left = (1.0 - _LEAD) * tick - wall % tick
    return left if left >= tick / 2 else left + tick


def turn(wall: float, tick: float) -> int:
    """Another number at each tenth tick: the one before a read of the agent at a multiple of ten ticks, where
    its windows end.
    """
    return int((wall / tick + _LEAD + 0.5) // _SLOW)


class Worker:
    """The loop: everything at each tick, GPM at its own period, the page after both."""

    def __init__(self, settings: dict[str, object], page: Writer) -> None:
        self._page = page
        self._tick = float(str(settings["tick"]))
        self._period = float(str(settings["period"]))
        self._reopen = float(str(settings["reopen"]))
        self._context = Context(page, float(str(settings["retry"])))
        now = time.monotonic()
        skip = settings["skip"]
        for number, call, seconds in skip if isinstance(skip, list) else []:
            self._context.skip[number, call] = now + seconds
            self._context.problems.add(f"GPU {number}", call, "the driver hung in it; left out for now")
        self._session = Session(self._context, str(settings["sys"]), str(settings["proc"]))
        self._started = time.monotonic()
        self._turn: int | None = None
        self._gpms: list[tuple[Gpu, Gpm]] = []
        self._pace = self._period
        self._spent = 0.0
        self._rounds = 0
        self._broken = False
        handles = {gpu.uuid: gpu.handle for gpu in self._session.gpus if gpu.device is not None}
        self._xids = Xids(self._context, handles)
        if handles and (-1, "xid") not in self._context.skip:
            self._xids.start()

    def run(self) -> int:
        """Samples until the GPUs change; returns the exit code. Raises DriverGoneError."""
        next_tick = next_sample = 0.0
        while True:
            now = time.monotonic()
            early = 0.0
            if now >= next_sample:
                self._sample()
                next_sample = now + (self._pace if self._gpms else self._tick)
                # A tick comes with the sample nearest to it: waking up costs more than most of what it does.
                early = min(self._pace, self._tick / 4) / 2
            if now >= next_tick - early:
                wall = time.time()
                next_tick = now + until_tick(wall, self._tick)
                before, self._turn = self._turn, turn(wall, self._tick)
                slow = self._turn != before
                self._settle(exact=slow)
                if not self._read(now, slow=slow):
                    return REOPEN
                self._describe()
                self._page.rows(self._rows())
            self._page.enter(-1, "sleep")
            time.sleep(max(0.0, min(next_tick, next_sample) - time.monotonic()))

    def _sample(self) -> None:
        """One round of GPM samples."""
        begin = time.thread_time()
        for gpu, gpm in self._gpms:
            if not gpu.lost:
                try:
                    gpm.sample(time.monotonic())
                except GpuLostError as lost:
                    self._lose(gpu, lost)
        self._rounds += 1
        self._spent += time.thread_time() - begin

    def _settle(self, *, exact: bool) -> None:
        """Compares the samples of the last tick; what that and taking them cost sets the pace."""
        begin = time.thread_time()
        for gpu, gpm in self._gpms:
            if not gpu.lost:
                try:
                    gpm.settle(time.monotonic(), exact=exact)
                except GpuLostError as lost:
                    self._lose(gpu, lost)
        self._spent += time.thread_time() - begin
        # What is asked seldom costs seldom: the seconds in between tell what a round costs.
        if self._rounds and not exact:
            self._pace = min(1.0, max(self._period, self._spent / self._rounds / BUDGET))
        self._spent, self._rounds = 0.0, 0

    def _read(self, now: float, *, slow: bool) -> bool:
        """One read of everything. False when the GPUs must be opened anew."""
        for gpu in self._session.gpus:
            dozed, gpu.dozing = gpu.dozing, gpu.asleep()
            if gpu.device is None and dozed and not gpu.dozing:
                return False
            if gpu.dozing or gpu.lost or gpu.device is None:
                _blank(gpu)
                continue
            try:
                if slow:
                    self._session.slice(gpu)
                for device in gpu.devices():
                    device.tick(now, slow=slow)
            except GpuLostError as lost:
                self._lose(gpu, lost)
        self._gpms = [
            (gpu, device.gpm)
            for gpu in self._session.gpus
            if not gpu.dozing and not gpu.lost
            for device in gpu.devices()
            if device.gpm is not None
        ]
        self._broken = self._session.incomplete or any(gpu.lost for gpu in self._session.gpus)
        if self._broken and now - self._started >= self._reopen:
            return False
        return not (slow and self._changed())

    def _changed(self) -> bool:
        try:
            return self._session.counted and self._session.count() != len(self._session.gpus)
        except pynvml.NVMLError as error:
            raise DriverGoneError(error.value) from None

    def _lose(self, gpu: Gpu, lost: GpuLostError) -> None:
        gpu.lost = True
        self._context.problems.drop(gpu.uuid)
        self._context.problems.add(gpu.uuid, "status", str(lost), lost.remedy)
        _blank(gpu)

    def _describe(self) -> None:
        texts: list[Described] = []
        for gpu in self._session.gpus:
            if gpu.uuid:
                texts.append(_described(gpu, gpu.uuid, "", gpu.info, gpu.device))
                for uuid, (device, info) in gpu.slices.items():
                    instance = str(gpu.instances[uuid])
                    texts.append(_described(gpu, uuid, instance, info, device))
        now = time.monotonic()
        for (number, call), until in self._context.skip.items():
            if now >= until:
                self._context.problems.clear(f"GPU {number}", call)
        problems = self._context.problems.listed()
        self._page.describe({"rows": texts, "problems": problems, "broken": self._broken})

    def _rows(self) -> list[bytes]:
        rows = []
        for gpu in self._session.gpus:
            if gpu.uuid:
                rows.append(gpu.device.packed(self._xid(gpu.uuid, None)) if gpu.device is not None else NULLS)
                for uuid, (device, _) in gpu.slices.items():
                    rows.append(device.packed(self._xid(gpu.uuid, gpu.instances[uuid])))
        return rows

    def _xid(self, uuid: str, instance: int | None) -> tuple[float, float]:
        """Count and last XID; null where the GPU delivers no events."""
        if (uuid, None) not in self._xids.seen:
            return float("nan"), float("nan")
        count, last = self._xids.seen.get((uuid, instance), (0.0, float("nan")))
        return count, last


def _described(gpu: Gpu, uuid: str, instance: str, info: dict[str, str], device: Device | None) -> Described:
    return {
        "gpu": uuid,
        "number": gpu.number,
        "instance": instance,
        "inside": device is not None and device.gpm is not None and not device.gpm.failing,
        "info": dict(info),
        "pids": device.pids[:_PIDS] if device is not None else [],
    }


def _blank(gpu: Gpu) -> None:
    for device in gpu.devices():
        device.blank()


def _die_with_parent() -> None:
    """Waits until the agent's end of the pipe closes, however it ended."""
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> int:
    """Runs the worker; the exit code says why it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.argv[1])
    page = Writer(settings["page"])
    page.enter(-1, "start")
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    try:
        return Worker(settings, page).run()
    except DriverGoneError as gone:
        page.describe({"rows": [], "broken": True, "problems": [(str(gone), gone.remedy)]})
        return GONE
    except Exception as error:  # the last words: whatever it was must reach the agent's `reason`
        page.describe(
            {"rows": [], "broken": True, "problems": [(f"NVML worker: {type(error).__name__}: {error}", "")]}
        )
        return FAILED


if __name__ == "__main__":
    os._exit(main())  # a normal exit would wait for threads inside the driver
