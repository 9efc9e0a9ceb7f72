"""A Prometheus that answers nonsense to `wellfed diagnose --prometheus`: an answer with warnings, or one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attempts import FULL, Note, scale
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from inputs import SPICE
from scripted import Held

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.promql import Reader, Reading, annotate, read
from wellfed.analysis.promql_http import Api
from wellfed.errors import UserError

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
END = START + timedelta(minutes=2)
LABELS = {"UUID": "GPU-1", "gpu": "0", "Hostname": "n1", "instance": "n1:9400"}
SERIES = {
    "DCGM_FI_DEV_GPU_UTIL": [(LABELS, lambda at: 80)],
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": [(LABELS, lambda at: 1e6 * at)],
    "node_load1": [({"instance": "n1:9100"}, lambda at: 1.5)],
}
CHOICE = st.integers(0, 999_999).map(lambda number: number / 1e6)
#: Any JSON, and texts that look like numbers.
NONSENSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "+Inf", "1e999", "-1", "9" * 30, "GPU-1", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value of a document."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        inner = list(document.items())
    elif isinstance(document, list):
        inner = list(enumerate(document))
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(document: Any, path: tuple[Any, ...], value: object) -> Any:
    """The document with another value at a path."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


class Liar:
    """In the place of urllib3's pool: a good answer to every question but one in five.

    turn: which one, 0..4. spoil: what becomes of it.
    """

    def __init__(self, turn: int, spoil: Callable[[bytes], bytes]) -> None:
        self._held = Held(SERIES)
        self._turn = turn
        self._spoil = spoil
        self._asked = 0

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> Liar:
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.status, self.headers, body = self._held(parts.path, query, headers)
        assert body is not None
        self.data = self._spoil(body) if self._asked % 5 == self._turn else body
        self._asked += 1
        return self


def exchange(choice: float, value: object) -> Callable[[bytes], bytes]:
    """Puts a value in the place of another one."""

    def spoil(body: bytes) -> bytes:
        document = {**json.loads(body), "warnings": []}
        found = places(document)
        return json.dumps(replaced(document, found[int(choice * len(found))], value)).encode()

    return spoil


def overwrite(choice: float, cut: int, value: bytes) -> Callable[[bytes], bytes]:
    """Puts bytes in the place of `cut` others."""

    def spoil(body: bytes) -> bytes:
        at = int(choice * len(body))
        return body[:at] + value + body[at + cut :]

    return spoil


SPOILS = st.builds(exchange, CHOICE, NONSENSE) | st.builds(
    overwrite, CHOICE, st.integers(0, 40), st.binary(max_size=8) | st.sampled_from(SPICE)
)


def diagnosed(reading: Reading) -> float:
    """Covered seconds of a diagnosis: whatever was believed, no GPU was watched longer than there was time."""
    found = diagnose(reading.tables, start=START, end=END)
    annotate(found.document, reading)
    json.dumps(found.document, allow_nan=False)
    covered = found.document["totals"]["covered_seconds"]
    assert covered <= 120 * len(found.document["gpus"]) + 1e-6
    return float(covered)


def test_whatever_a_server_answers_is_a_diagnosis_or_one_line(note: Note, tmp_path: Path) -> None:
    tried = 0
    answered: list[float] = []
    told: list[str] = []

    @settings(
        max_examples=scale(10_000, 60),
        deadline=None,
        database=None,
        derandomize=not FULL,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 4), SPOILS)
    def attack(turn: int, spoil: Callable[[bytes], bytes]) -> None:
        nonlocal tried
        tried += 1
        api = Api("http://server", Liar(turn, spoil), {})  # type: ignore[arg-type]
        with TemporaryDirectory(dir=tmp_path) as folder:
            try:
                reading = read(Reader(api, parallel=1), START, END, folder)
            except UserError as error:
                told.append(str(error))
                return
            answered.append(diagnosed(reading))
            told.extend(reading.warnings)

    attack()
    assert answered
    assert not [text for text in told if len(text.splitlines()) != 1]
    note("hostile answers of a Prometheus", tried, 0)
