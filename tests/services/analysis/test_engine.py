"""The engine: the same records give the same findings once, however they arrive and whatever is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.analysis.detections import DETECTIONS
from services.analysis.detections.disk_space import DISK_SPACE
from services.analysis.state import State
from telltale.api.analysis.v1.findings_pb2 import FindingsRecord
from telltale.api.analysis.v1.findings_pb2 import State as FindingState
from telltale.api.mesh.v1.batch_pb2 import GapReason, Header, Hole, Loss, LossReason
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.delivered import Item, Missing
from tests.services.analysis.telling import DISK, OWN, PLATFORM, Teller, at, engine_of, opened_state

WEB2 = "spiffe://servers.telltale.internal/agent/web2"
NOW = at(100_000)


def disk(ratio: float, mountpoint: str = "/") -> dict[str, object]:
    return {"mountpoint": mountpoint, "filesystem_type": "ext4", "used_ratio": ratio}


def history() -> list[Item]:
    """Two hosts for 20 minutes: disks fill and are cleaned, a batch is forged, one vanishes, a gap comes."""
    teller = Teller()
    items: list[Item] = []
    for step in range(40):
        seconds = 30.0 * step
        full = 0.95 if step % 13 > 4 else 0.4
        items.append(teller.batch(seconds, [disk(full), disk(0.99 if step == 20 else 0.5, "/var")]))
        items.append(teller.batch(seconds + 1, [disk(0.91 if step > 8 else 0.3)], source=WEB2))
        if step == 10:
            items.append(teller.batch(seconds + 2, wrong=RefusalReason.REFUSAL_REASON_SIGNATURE))
        if step == 15:
            items.append(teller.batch(seconds + 3, [disk(0.2, "/srv")], skip=2))
        if step == 25:
            items.append(teller.gap(GapReason.GAP_REASON_RETENTION, DISK))
    return items


def outbox(state: State) -> list[FindingsRecord]:
    rows = state.sql.execute("SELECT record FROM outbox ORDER BY number").fetchall()
    return [FindingsRecord.FromString(row[0]) for row in rows]


def told(records: Sequence[FindingsRecord]) -> list[bytes]:
    return sorted(record.SerializeToString(deterministic=True) for record in records)


def late(state: State) -> int:
    (row,) = state.sql.execute(
        "SELECT coalesce(sum(amount), 0)::BIGINT FROM shortfalls WHERE kind = 'late_records'"
    ).fetchall()
    return int(row[0])


def findings_of(items: Sequence[Item], path: Path, cuts: Sequence[int]) -> list[FindingsRecord]:
    with opened_state(path, DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        for first, last in zip([0, *cuts], [*cuts, len(items)], strict=True):
            engine.take(items[first:last], NOW)
        return outbox(state)


@lru_cache
def whole() -> list[bytes]:
    """What one uninterrupted run over the history finds."""
    with TemporaryDirectory() as directory:
        return told(findings_of(history(), Path(directory) / "state", []))


def test_a_history_gives_the_findings_that_are_in_it(tmp_path: Path) -> None:
    found = findings_of(history(), tmp_path / "state", [])
    opened = {(record.detection, record.entity, record.part) for record in found}
    assert opened == {
        ("disk_space", "web1", "/"),
        ("disk_space", "web2", "/"),
        ("disk_full", "web1", "/var"),
        ("forged_batch", "web1", ""),
        ("broken_chain", "web1", ""),
        ("stream_gap", DISK, ""),
    }
    assert len({(record.id, record.revision) for record in found}) == len(found)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_how_records_are_cut_into_chunks_changes_nothing(data: st.DataObject, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    items = history()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(items) - 1), max_size=10)))
    directory = tmp_path_factory.mktemp("chunks")
    assert told(findings_of(items, directory / "cut", cuts)) == whole()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_opening_the_database_anew_in_between_changes_nothing(data: st.DataObject, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    items = history()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(items) - 1), min_size=6, max_size=12)))
    opened: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        connect = State._connect
        patch.setattr(State, "_connect", lambda state: opened.append(state) or connect(state))
        patch.setattr("services.analysis.state.COMMITS_AN_OPENING", data.draw(st.integers(1, 4)))
        found = findings_of(items, tmp_path_factory.mktemp("reopened") / "state", cuts)
    assert len(opened) > 1
    assert told(found) == whole()


def test_a_tick_and_every_rule_go_on_after_the_database_was_opened_anew(tmp_path: Path) -> None:
    def ticked(path: Path, reopening: bool) -> list[bytes]:
        teller = Teller()
        with opened_state(path, DETECTIONS) as state:
            engine = engine_of(state, DETECTIONS)
            for step in range(30):
                seconds = 30.0 * step
                # One host falls silent after five minutes; the other ends and begins to fill its disk.
                items = [teller.batch(seconds, (), "mesh.processes", PLATFORM)]
                items += [teller.batch(seconds, [disk(0.95 if step % 10 > 4 else 0.3)], source=WEB2)]
                items += [teller.batch(seconds, [disk(0.95)])] if step < 10 else []
                engine.take(items, at(seconds))
                if reopening:
                    state.reopen()
                engine.tick(at(seconds))
            return told(outbox(state))

    found = ticked(tmp_path / "plain", reopening=False)
    assert {FindingsRecord.FromString(one).detection for one in found} == {"disk_space", "source_silent"}
    assert ticked(tmp_path / "reopened", reopening=True) == found


def test_a_batch_that_was_taken_is_not_taken_again(tmp_path: Path) -> None:
    items = history()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        engine.take(items, NOW)
        heads = {(chain.product, chain.source): chain.head.sequence for chain in engine.chains()}
        reached = {position.log: position.offset for position in state.cursor().positions}
    # What the subscription goes on from after a restart.
    assert heads[DISK, WEB2] == 40
    assert reached == {"log": max(item.position.offset for item in items if not isinstance(item, Missing))}


# Kills itself with SIGKILL just before or just after the nth commit of a run over `history()`.
_VICTIM = """
import os, signal, sys
from pathlib import Path
from services.analysis import state as module
from services.analysis.detections import DETECTIONS
from services.analysis.state import State
from tests.services.analysis.telling import engine_of, opened_state
from tests.services.analysis.test_engine import NOW, history

# The database is opened anew in between, too.
module.COMMITS_AN_OPENING = 3

path, nth, after, size = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "after", 7
commit, commits = State.commit, 0

def dying_commit(state):
    global commits
    commits += 1
    if commits == nth and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(state)
    if commits == nth:
        os.kill(os.getpid(), signal.SIGKILL)

State.commit = dying_commit
with opened_state(path, DETECTIONS) as state:
    engine = engine_of(state, DETECTIONS)
    items = history()
    for first in range(0, len(items), size):
        engine.take(items[first : first + size], NOW)
"""


def test_kill_nine_at_a_commit_neither_repeats_nor_misses_a_finding(tmp_path: Path) -> None:
    items = history()
    # The first commit opens the state; 7 deliveries go into each later one.
    for nth, moment in ((2, "before"), (2, "after"), (7, "before"), (9, "after")):
        path = tmp_path / f"{moment}-{nth}"
        victim = subprocess.run(
            [sys.executable, "-c", _VICTIM, str(path), str(nth), moment],
            cwd=os.getcwd(),
            check=False,
            timeout=60,
        )
        assert victim.returncode == -signal.SIGKILL
        with opened_state(path, DETECTIONS) as state:
            engine = engine_of(state, DETECTIONS)
            reached = max((position.offset for position in state.cursor().positions), default=0)
            left = [item for item in items if isinstance(item, Missing) or item.position.offset > reached]
            # The gap was delivered before its successor; it is told again only when it was not durable.
            gap_done = state.sql.execute(
                "SELECT count(*) FROM shortfalls WHERE kind = 'gaps'"
            ).fetchone() == (1,)
            engine.take([item for item in left if not (gap_done and isinstance(item, Missing))], NOW)
            assert told(outbox(state)) == whole()


def test_a_clock_in_the_future_makes_nobody_late(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        # A year ahead, for ten minutes; then it is set right. Another source is right all the time.
        ahead = 365 * 86_400.0
        found = []
        for step in range(20):
            seconds = 30.0 * step
            found += engine.take([teller.batch(seconds + ahead, [disk(0.5)], received=seconds)], NOW)
            found += engine.take([teller.batch(seconds, [disk(0.95)], source=WEB2)], NOW)
        for step in range(20, 30):
            found += engine.take([teller.batch(30.0 * step, [disk(0.95)])], NOW)
        assert late(state) == 0
    assert [(record.entity, record.state) for record in found] == [
        ("web2", FindingState.STATE_OPEN),
        ("web1", FindingState.STATE_OPEN),
    ]


def test_a_clock_that_is_set_back_takes_its_watermark_with_it(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        found = engine.take([teller.batch(1_000, [disk(0.5)], received=1_000)], NOW)
        # An hour behind from now on: the first batch is late, those after it are not.
        for step in range(5):
            found += engine.take(
                [teller.batch(30.0 * step - 3_600, [disk(0.95)], received=1_030 + 30.0 * step)], NOW
            )
        assert late(state) == 1
    assert [record.state for record in found] == [FindingState.STATE_OPEN]


def test_late_records_change_nothing_and_are_counted(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        for seconds in (0, 30, 60, 90):
            # Sealed later and later, as spools are; one record is from long before.
            records = [disk(0.95)] + (
                [{**disk(0.1), "time": "2026-11-23T11:00:00Z"}] if seconds == 60 else []
            )
            engine.take([teller.batch(seconds, records)], NOW)
        assert late(state) == 1
        found = outbox(state)
        completeness = found[0].completeness
    assert [record.state for record in found] == [FindingState.STATE_OPEN]
    assert found[0].value == 0.95
    assert completeness.late_records == 0  # it lies an hour before the window


def test_a_finding_says_what_is_missing_of_its_input(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        engine.take([teller.batch(0, [disk(0.95)])], NOW)
        engine.take([teller.batch(30, [disk(0.95)], holes=[(1, 1)])], NOW)
        engine.take([teller.batch(40, wrong=RefusalReason.REFUSAL_REASON_SIGNATURE)], NOW)
        engine.take([teller.gap(GapReason.GAP_REASON_LOG_REPLACED)], NOW)
        (found,) = engine.take([teller.batch(70, [disk(0.95)])], NOW)
    assert found.completeness.hole_records == 7
    assert found.completeness.refused_batches == 1
    assert found.completeness.gaps == 1


def test_a_batch_that_is_not_what_its_header_says_is_left_out_and_told(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        good = [teller.batch(30.0 * step, [disk(0.95)], source=WEB2) for step in range(4)]
        broken = teller.batch(50, [disk(0.99)], payload=b"\x0a\xff\xff")
        short = teller.batch(60, [disk(0.99), disk(0.99)], payload=b"")
        found = engine.take([good[0], broken, good[1], short, *good[2:]], NOW)
    assert [(record.detection, record.entity) for record in found] == [
        ("disk_space", "web2"),
        ("refused_batch", "web1"),
    ]


def test_it_takes_no_input_from_itself(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        records = [{"id": "x", "revision": 1}]
        forged = teller.batch(
            0, records, "analysis.findings", OWN, wrong=RefusalReason.REFUSAL_REASON_SIGNATURE
        )
        assert engine.take([teller.batch(0, records, "analysis.findings", OWN), forged], NOW) == []
        assert state.cursor().positions[0].offset == forged.position.offset
        assert not state.streams()


def test_a_replay_is_apart_from_live_data_and_is_never_silent(tmp_path: Path) -> None:
    replay = "spiffe://servers.telltale.internal/replay/march"
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        for seconds in (0, 30, 60):
            engine.take([teller.batch(seconds, [disk(0.95)], source=replay, run="march")], at(seconds))
        for seconds in range(60, 600, 30):
            engine.take([teller.batch(seconds, (), "mesh.processes", PLATFORM)], at(seconds))
        engine.tick(at(600))
        found = outbox(state)
    assert [(record.detection, record.replay_run) for record in found] == [("disk_space", "march")]


def test_invented_sources_are_bounded(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("services.analysis.episodes.MOST_OPEN", 3)
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        for number in range(10):
            source = f"spiffe://servers.telltale.internal/agent/invented{number}"
            engine.take(
                [teller.batch(number, source=source, wrong=RefusalReason.REFUSAL_REASON_SIGNATURE)], NOW
            )
        found = outbox(state)
        assert not state.streams()
    assert [record.entity for record in found] == ["invented0", "invented1", "invented2", DISK]


def test_a_finding_about_a_source_that_is_gone_for_good_ends(tmp_path: Path) -> None:
    teller = Teller()
    week = 7 * 86_400
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        for seconds in (0, 30, 60):
            engine.take([teller.batch(seconds, [disk(0.95)])], at(seconds))
        engine.take([teller.batch(week + 70, (), "mesh.processes", PLATFORM)], at(week + 70))
        (ended,) = engine.tick(at(week + 70))
        assert state.sql.execute("SELECT count(*) FROM stretches").fetchone() == (0,)
    assert (ended.state, ended.revision, ended.occurrences) == (FindingState.STATE_ENDED, 2, 3)


def test_a_part_that_its_source_no_longer_tells_of_ends_its_finding(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        for seconds in (0, 30, 60, 90):
            engine.take([teller.batch(seconds, [disk(0.95), disk(0.95, "/mnt")])], at(seconds))
        found = []
        # Unmounted: nobody will ever say that it is less full.
        for seconds in range(120, 420, 30):
            engine.take([teller.batch(seconds, [disk(0.95)])], at(seconds))
            found += engine.tick(at(seconds))
        assert state.sql.execute("SELECT part FROM stretches").fetchall() == [("/",)]
    assert [(record.part, record.state) for record in found] == [("/mnt", FindingState.STATE_ENDED)]
    assert found[0].time.ToDatetime(UTC) == at(90)


@pytest.mark.parametrize(
    "declared",
    [
        Header(losses=[Loss(records=(1 << 64) - 1, reason=LossReason.LOSS_REASON_UPSTREAM)] * 3),
        Header(holes=[Hole(first_sequence=1, last_sequence=1, records=(1 << 64) - 1)] * 3),
    ],
)
def test_what_a_source_declares_at_any_size_stops_nobody(declared: Header, tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", (DISK_SPACE,)) as state:
        engine = engine_of(state, (DISK_SPACE,))
        found = []
        for seconds in (0, 30, 60, 90):
            item = teller.batch(seconds, [disk(0.95)])
            header = Header()
            header.CopyFrom(item.header)
            header.MergeFrom(declared)
            found += engine.take([replace(item, header=header)], at(seconds))
    (found_once,) = found
    assert max(found_once.completeness.lost_records, found_once.completeness.hole_records) == (1 << 62) - 1


def test_names_of_any_length_become_findings_of_bounded_size(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        claims = [
            {"product": "p", "batchSource": "s" * 900_000, "peer": "p" * 900_000 + end, "reason": 5}
            for end in ("1", "2")
        ]
        found = engine.take([teller.batch(0, claims, "mesh.refusals")], NOW)
    assert len({record.entity for record in found}) == 2
    assert all(len(record.entity) == 1_000 and record.ByteSize() < 100_000 for record in found)
