"""Storage arrays as they see themselves: latency, throughput and operations by protocol, how full they are.

What: the table `array`, one row an array and protocol. Source: the exporters named in the configuration file
under [array.NAME]: Pure Storage's FlashBlade OpenMetrics exporter by the names of flashblade_names.py, any
other by a mapping (arrays.py). All clients of an array share it: name it on one agent, not on each. Cost: one
page every thirty seconds; the exporter asks the array each time. Privilege: none; a token where the exporter
wants one. Not checked on an array.
"""

from __future__ import annotations

from collections.abc import Mapping

from wellfed.collectors.endpoints import Array
from wellfed.collectors.fetch import AbsentError, Page
from wellfed.collectors.registry import Roots, Row, register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wellfed.collectors.names import Group

__all__ = ["Flashblade", "parse"]

#: Rates of several series add up; of latencies and shares the worst counts.
WORST = ("read_latency_seconds", "write_latency_seconds", "other_latency_seconds", "used_ratio")


def parse(text: bytes, array: str, columns: Group) -> list[Row]:
    """The rows of one array. Raises ValueError."""
    from wellfed.collectors.flashblade_names import ALL, SPACE
    from wellfed.collectors.samples import gather
    from wellfed.collectors.samples import parse as samples

    fixed, labels = columns.fixed.get("protocol", ALL), columns.labels.get("protocol", ())

    def protocol(found: Mapping[str, str]) -> str:
        return next((found[label].lower() for label in labels if label in found), fixed)

    told = samples(text, {name.metric for name in columns.names})
    rows = []
    for key, values in gather(columns.names, told, protocol, worst=WORST).items():
        used, capacity = (values.pop(column, None) for column in SPACE)
        if used is not None and capacity:
            values.setdefault("used_ratio", used / capacity)
        if values:
            rows.append(Row("array", (array, key), dict(values)))
    return rows


@register
class Flashblade:
    """Fills `array`."""

    name = "flashblade"
    interval = 30.0
    deadline = 20.0
    tables: tuple[str, ...] = ("array",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._pages: dict[str, Page] = {}

    def close(self) -> None:
        """Closes the connections."""
        for page in self._pages.values():
            page.close()

    def read(self, roots: Roots, now: float) -> list[Row]:
        """The rows of every array that answers. Raises ValueError where none does and a page is broken."""
        rows: list[Row] = []
        absent: list[AbsentError] = []
        broken = []
        for array in roots.endpoints.arrays:
            try:
                rows += self._ask(array)
            except AbsentError as error:
                absent.append(error)
            except ValueError as error:
                broken.append(f"{array.target.name}: {error}")
        if broken and not rows:
            raise ValueError(broken[0])
        self.reason = "; ".join([*map(str, absent), *broken])
        self.remedy = next((error.remedy for error in absent if error.remedy), "")
        if not roots.endpoints.arrays:
            self.reason = "no storage array is named in the configuration file"
            self.remedy = (
                "none needed without one; with one, [array.NAME] url = ... on one agent (docs/arrays.md)"
            )
        return rows

    def _ask(self, array: Array) -> list[Row]:
        page = self._pages.setdefault(array.name, Page(array.target, timeout=10.0))
        rows = parse(page.get(), array.name, array.columns)
        if not rows:
            raise AbsentError(
                f"{array.target.name} has none of the metrics that [array.{array.name}] maps", there=True
            )
        return rows
