"""A range that does not fit into memory is refused in one sentence, and the hub lives on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from served import serving

from wellfed.analysis.scenarios import fleet
from wellfed.analysis.store import Store
from wellfed.dashboard import app, room
from wellfed.dashboard.data import StoreSource
from wellfed.dashboard.ranges import parse_range
from wellfed.errors import UserError

END = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_a_range_that_needs_more_than_is_free_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "store") as store:
        store.append(fleet(seed=1, gpus=80, duration=120, end=END).tables)
        source = StoreSource(store)
        now = datetime.now(UTC)
        short = parse_range((END - timedelta(seconds=15)).isoformat(), END.isoformat(), now)
        long = parse_range((END - timedelta(days=30)).isoformat(), END.isoformat(), now)
        monkeypatch.setattr(room, "free", lambda: 300 * room.WINDOW_BYTES)
        with serving(app.create_app(source).server) as asked:
            query = f"from={long.start:%Y-%m-%dT%H:%M:%SZ}&to={END:%Y-%m-%dT%H:%M:%SZ}"
            answer = asked.get(f"/api/v1/summary?{query}")
            assert answer.status == 422
            assert "960 windows of GPUs" in answer.json["detail"]
            assert f"wellfed diagnose --lake {store.path}" in answer.json["detail"]
        with pytest.raises(UserError, match="Choose a shorter range"):
            source.answer(long)
        assert source.answer(short).diagnosis.windows.height > 0


def test_what_is_free_is_the_groups_where_that_has_less(tmp_path: Path) -> None:
    group = tmp_path / "memory"
    free = psutil.virtual_memory().available
    assert room.free(str(group)) == pytest.approx(free, rel=0.2)
    for name, text in (("max", "1000000"), ("current", "700000"), ("stat", "anon 1\nfile 200000\n")):
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert room.free(str(group)) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free(str(group)) == pytest.approx(free, rel=0.2)
