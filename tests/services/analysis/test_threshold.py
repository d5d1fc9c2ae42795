"""The threshold rule in SQL agrees with its plain definition, however rows are cut into chunks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.analysis.detections.disk_space import DISK_SPACE
from services.analysis.thresholds import Thresholds
from telltale.api.analysis.v1.findings_pb2 import State
from telltale.consume.delivered import Item
from tests.services.analysis.telling import START, Teller, at, engine_of, opened_state

NOW = at(1_000_000)
LIMIT = Thresholds().disk
Told = tuple[str, str, float, float, float, int]


def plain(rows: Sequence[tuple[float, str, float]]) -> list[Told]:
    """(state, part, since, at, value, occurrences) of every revision, by the definition in words."""
    found: list[Told] = []
    since: dict[str, float] = {}
    seen: dict[str, int] = {}
    raised: set[str] = set()
    for seconds, part, value in rows:
        if part not in since:
            if value < LIMIT.raise_at:
                continue
            since[part], seen[part] = seconds, 0
        if value < LIMIT.clear_at:
            if part in raised:
                found.append(("ENDED", part, since[part], seconds, value, seen[part]))
                raised.discard(part)
            del since[part]
            continue
        seen[part] += 1
        if part not in raised and seconds - since[part] >= LIMIT.hold.total_seconds():
            raised.add(part)
            found.append(("OPEN", part, since[part], seconds, value, seen[part]))
    return sorted(found, key=lambda one: (one[1], one[3]))


def by_sql(items: Sequence[Item], cuts: Sequence[int], path: Path) -> list[Told]:
    found: list[Told] = []
    with opened_state(path, (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        for first, last in zip([0, *cuts], [*cuts, len(items)], strict=True):
            for record in engine.take(items[first:last], NOW):
                start = (record.window_start.ToDatetime(START.tzinfo) - START).total_seconds()
                end = (record.time.ToDatetime(START.tzinfo) - START).total_seconds()
                name = State.Name(record.state).removeprefix("STATE_")
                found.append((name, record.part, start, end, record.value, record.occurrences))
    return sorted(found, key=lambda one: (one[1], one[3]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([0.5, 0.879, 0.88, 0.89, 0.9, 0.95])),
        min_size=1,
        max_size=40,
    ),
    data=st.data(),
)
def test_sql_and_definition_agree(
    values: list[tuple[str, float]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [(20.0 * place, part, value) for place, (part, value) in enumerate(values)]
    teller = Teller()
    items: list[Item] = []
    place = 0
    while place < len(rows):
        size = data.draw(st.integers(1, 5))
        batch = rows[place : place + size]
        records: list[dict[str, Any]] = [
            {
                "mountpoint": part,
                "filesystem_type": "ext4",
                "used_ratio": value,
                "time": at(seconds).isoformat().replace("+00:00", "Z"),
            }
            for seconds, part, value in batch
        ]
        items.append(teller.batch(batch[-1][0], records))
        place += size
    cuts = sorted(data.draw(st.sets(st.integers(1, len(items)), max_size=3)) - {len(items)})
    directory = tmp_path_factory.mktemp("threshold")
    assert by_sql(items, cuts, directory / "state") == plain(rows)
