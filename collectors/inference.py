"""Inference servers on this node: requests running and waiting, KV cache, tokens, and what requests waited
for.

What: the table `server`, one row a server, or one a model where a server has several by nature (Triton, Ray
Serve). Source: the metrics pages of vLLM, SGLang, Triton, TGI and Ray Serve, on their usual ports of the
loopback interface and at --inference-urls; names in inference_names.py. The GPUs are those held by the
process that listens or by its children. Counters are passed on as the server has them: one that starts again
starts from zero. Cost: every ten seconds 0.1 ms a port where nothing listens, 1 ms a server. A port where
something else answers is left alone for ten minutes. Privilege: none; the GPU needs to see the server's open
files (root or the same user).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wellfed.collectors.fetch import AbsentError, Page, Target, target
from wellfed.collectors.listeners import gpus_behind
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Inference", "parse"]

#: vLLM; Triton; Ray and TGI in a container; SGLang; TGI by its launcher.
USUAL_PORTS = (8000, 8002, 8080, 30000, 3000)
#: Seconds for which something else that answers there is left alone, and what does not answer at all.
LEAVE_ALONE = 600.0
LEAVE_SILENT = 60.0
#: Reads of a server between two looks at which GPUs it has.
LOOK_AGAIN = 6
#: These serve several models as a rule: the model is always part of the row's key.
_SEVERAL = frozenset({"triton", "ray_serve"})
_NOT_OURS = "no metrics of an inference server that is known here"
_REMEDY = (
    "name its metrics page with --inference-urls; SGLang shows it with --enable-metrics, Ray where "
    "--metrics-export-port says"
)


def parse(text: bytes, place: str) -> list[Row]:
    """The rows of one metrics page; none where it is of no inference server. place: its `host:port`.
    Raises ValueError.
    """
    from wellfed.collectors.inference_names import SERVERS
    from wellfed.collectors.samples import gather
    from wellfed.collectors.samples import parse as samples

    told = list(samples(text, {name.metric for group in SERVERS for name in group.names}))
    rows: list[Row] = []
    for group in SERVERS:
        gpus: dict[str, set[str]] = {}

        def model(labels: Mapping[str, str], group: object = group, gpus: dict[str, set[str]] = gpus) -> str:
            theirs = getattr(group, "labels")  # noqa: B009
            found = "/".join(filter(None, (labels.get(label, "") for label in theirs.get("model", ()))))
            gpus.setdefault(found, set()).update(
                filter(None, (labels.get(label, "") for label in theirs.get("gpu", ())))
            )
            return found

        for name, columns in gather(group.names, told, model, worst=("kv_usage",)).items():
            info = {"engine": group.family, "model": name, "gpu": ",".join(sorted(gpus[name]))}
            rows.append(Row("server", (place,), dict(columns), {k: v for k, v in info.items() if v}))
    for row in rows:
        if len(rows) > 1 or row.info["engine"] in _SEVERAL:
            row.key = ("/".join(filter(None, (place, row.info.get("model", row.info["engine"])))),)
    return rows


@dataclass(slots=True)
class _Asked:
    """A page that is asked for. due: when next, by time.monotonic()."""

    page: Page
    named: bool
    due: float = 0.0
    reads: int = 0
    gpus: str = ""
    problem: str = ""
    remedy: str = ""
    rows: list[Row] = field(default_factory=list)


@register
class Inference:
    """Fills `server`. ports: of the loopback interface that are tried unasked."""

    name = "inference"
    interval = 10.0
    deadline = 15.0
    tables: tuple[str, ...] = ("server",)

    def __init__(self, ports: Iterable[int] = USUAL_PORTS) -> None:
        self.reason = ""
        self.remedy = ""
        self._ports = tuple(ports)
        self._asked: dict[str, _Asked] = {}

    def close(self) -> None:
        """Closes the connections."""
        for asked in self._asked.values():
            asked.page.close()

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row a server or model. Raises ValueError where all that answers is broken."""
        broken = []
        for asked in self._wanted(roots.endpoints.inference):
            if time.monotonic() < asked.due:
                continue
            asked.rows, asked.problem, asked.remedy = [], "", ""
            try:
                self._ask(asked, roots)
            except AbsentError as error:
                self._absent(asked, error)
            except ValueError as error:
                asked.problem = f"{asked.page.target.name}: {error}"
                broken.append(asked.problem)
        rows = [row for asked in self._asked.values() for row in asked.rows]
        if broken and not rows:
            raise ValueError(broken[0])
        self._explain(rows)
        return rows

    def _wanted(self, named: Iterable[Target]) -> Iterable[_Asked]:
        for to in named:
            self._asked.setdefault(to.place, _Asked(Page(to), named=True))
        for port in self._ports:
            to = target(f"127.0.0.1:{port}")
            if f"localhost:{port}" not in self._asked:
                self._asked.setdefault(to.place, _Asked(Page(to), named=False))
        return self._asked.values()

    def _ask(self, asked: _Asked, roots: Roots) -> None:
        to = asked.page.target
        rows = parse(asked.page.get(), to.place)
        if not rows:
            raise AbsentError(f"{to.name} has {_NOT_OURS}", there=True)
        if asked.reads % LOOK_AGAIN == 0:
            asked.gpus = ",".join(gpus_behind(roots, to))
        asked.reads += 1
        for row in rows:
            if asked.gpus:
                row.info.setdefault("gpu", asked.gpus)
        asked.rows = rows

    def _absent(self, asked: _Asked, error: AbsentError) -> None:
        asked.reads = 0
        if error.silent:
            asked.due = time.monotonic() + LEAVE_SILENT
        elif error.there and not asked.named:
            asked.due = time.monotonic() + LEAVE_ALONE
        asked.page.close()
        asked.problem, asked.remedy = str(error), error.remedy

    def _explain(self, rows: list[Row]) -> None:
        """What was named and is not there; of the usual ports only that none has a server."""
        named = [asked for asked in self._asked.values() if asked.problem and (asked.named or asked.reads)]
        self.reason = "; ".join(asked.problem for asked in named)
        self.remedy = next((asked.remedy for asked in named if asked.remedy), "")
        if not rows and not named:
            ports = ", ".join(map(str, self._ports))
            self.reason = f"no inference server answers on ports {ports} of 127.0.0.1"
            self.remedy = _REMEDY
