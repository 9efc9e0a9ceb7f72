"""One format of /metrics as the options want it: own names, the names of other exporters, the host's label.

Text for node_exporter's textfile collector (--textfile) is the same page, written to a file.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from wellfed.collectors.endpoints import Endpoints
from wellfed.collectors.exposition import Exposition, Family, Foreign
from wellfed.collectors.fetch import target
from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.sampler import Window
from wellfed.errors import UserError

__all__ = ["FAMILIES", "Names", "Page", "host_name", "roots_of", "textfile"]

#: What --names may say.
FAMILIES = ("dcgm", "node_exporter")


def roots_of(options: Mapping[str, object]) -> Roots:
    """Roots from --procfs and --sysfs. A root that is not there only leaves its collectors without input."""
    roots = Roots(str(options["procfs"]), str(options["sysfs"]), _endpoints(options))
    for flag, path in (("--procfs", roots.proc), ("--sysfs", roots.sys)):
        if not os.path.isdir(path):
            print(f"wellfed: {flag} {path}: no such folder", file=sys.stderr)
    return roots


def _endpoints(options: Mapping[str, object]) -> Endpoints:
    dcgm, kueue, urls, arrays = (
        options.get(name) for name in ("dcgm_url", "kueue_url", "inference_urls", "array")
    )
    return Endpoints(
        target(str(dcgm)) if dcgm else None,
        tuple(target(url) for url in urls) if isinstance(urls, tuple) else (),
        arrays if isinstance(arrays, tuple) else (),
        target(str(kueue)) if kueue else None,
        bool(options.get("slurm_pending")),
    )


def host_name(options: Mapping[str, object]) -> str:
    """--host, else the machine's hostname."""
    return str(options.get("host") or socket.gethostname())


def host_labels(options: Mapping[str, object]) -> list[tuple[str, str]]:
    """The label of --hostname-label."""
    return [("hostname", host_name(options))] if options.get("hostname_label") else []


class Names:
    """The same facts under the names of --names. Raises UserError for names that nobody has."""

    def __init__(self, options: Mapping[str, object], openmetrics: bool = False) -> None:
        wanted = {name.strip() for name in str(options.get("names") or "").split(",")} - {""}
        for name in sorted(wanted - set(FAMILIES)):
            raise UserError(f"--names knows {', '.join(FAMILIES)}, not {name!r}")
        self._roots = Roots(str(options["procfs"]), str(options["sysfs"]))
        self._dcgm = self._node = None
        if "dcgm" in wanted:
            from wellfed.collectors.names_dcgm import DcgmNames

            self._dcgm = DcgmNames(host_name(options), openmetrics, host_labels(options))
        if "node_exporter" in wanted:
            from wellfed.collectors.names_node import NodeNames

            self._node = NodeNames(openmetrics, host_labels(options))

    def lines(self, rows: Sequence[Row]) -> list[bytes]:
        """Complete lines of all series."""
        dcgm = self._dcgm.text(rows, time.monotonic()) if self._dcgm else ""
        node = self._node.lines(self._roots) if self._node else []
        return [dcgm.encode(), *node] if dcgm else node

    def points(self, rows: Sequence[Row]) -> list[tuple[Sequence[Foreign], Sequence[float]]]:
        """All series with their values by exporter, for OTLP."""
        found: list[tuple[Sequence[Foreign], Sequence[float]]] = []
        if self._node:
            found.append(self._node.points(self._roots))
        if self._dcgm:
            found.append(self._dcgm.points(rows, time.monotonic()))
        return found


class Page:
    """Renders rows. Raises UserError for names that nobody has."""

    def __init__(self, options: Mapping[str, object], openmetrics: bool) -> None:
        self._exposition = Exposition(openmetrics, host_labels(options))
        self._names = Names(options, openmetrics)

    def render(self, rows: Sequence[Row], families: Iterable[Family]) -> bytes:
        """The whole page."""
        return self._exposition.render(rows, families, self._names.lines(rows))


def textfile(folder: str, options: Mapping[str, object]) -> Callable[[Window], None]:
    """What writes each window to wellfed.prom for node_exporter, whole or not at all. Raises UserError."""
    path = os.path.join(folder, "wellfed.prom")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--textfile {folder}: no folder that this user may write to")
    page = Page(options, openmetrics=False)

    def write(window: Window) -> None:
        fresh = f"{path}.{os.getpid()}"
        with open(fresh, "wb") as file:
            file.write(page.render(window.rows, ()))
        os.chmod(fresh, 0o644)
        os.replace(fresh, path)

    return write
