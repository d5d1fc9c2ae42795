"""Silence is told once, by those who hear, and ends with the next word; time is what the test says it is."""

from pathlib import Path

import pytest

from services.analysis.detections import DETECTIONS
from services.analysis.engine import Engine
from services.analysis.thresholds import Thresholds
from telltale.api.analysis.v1.findings_pb2 import FindingsRecord, State
from telltale.identity.distrust import Distrust
from tests.services.analysis.telling import OWN, PLATFORM, WEB1, Teller, at, engine_of, opened_state

WEB2 = "spiffe://servers.telltale.internal/agent/web2"


def said(records: list[FindingsRecord]) -> list[tuple[str, str, str]]:
    return [
        (record.detection, record.entity, State.Name(record.state).removeprefix("STATE_"))
        for record in records
    ]


def test_a_dead_host_is_one_finding_and_not_one_a_product(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        for product in ("servers.disk_usage", "servers.memory", "servers.inventory"):
            engine.take([teller.batch(0, (), product, WEB1)], at(0))
        found = []
        for seconds in range(0, 900, 20):
            engine.take([teller.batch(seconds, (), "servers.memory", WEB2)], at(seconds))
            found += engine.tick(at(seconds))
    assert said(found) == [("source_silent", "web1", "OPEN")]
    assert found[0].window_start.ToDatetime(at(0).tzinfo) == at(0)
    assert found[0].time.ToDatetime(at(0).tzinfo) == at(180)


def test_whoever_hears_nothing_calls_nobody_silent(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        engine.take([teller.batch(0)], at(0))
        engine.take([teller.batch(0, (), "mesh.processes", PLATFORM)], at(0))
        for seconds in range(0, 7_200, 60):
            assert engine.tick(at(seconds)) == []
        # The gateway is back: who speaks up within its time was never silent for us.
        engine.take([teller.batch(7_200, (), "mesh.processes", PLATFORM)], at(7_200))
        assert engine.tick(at(7_210)) == []
        engine.take([teller.batch(7_230)], at(7_230))
        assert engine.tick(at(7_240)) == []


def test_a_backlog_is_not_silence(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        # An hour of one product is read within a minute, while the other is heard live.
        for step in range(0, 60, 4):
            now = at(3_600 + step)
            engine.take([teller.batch(60.0 * step, received=60.0 * step)], now)
            engine.take([teller.batch(3_600 + step, (), "mesh.processes", PLATFORM)], now)
            assert engine.tick(now) == []


def test_a_restart_neither_repeats_silence_nor_forgets_it(tmp_path: Path) -> None:
    teller = Teller()
    path = tmp_path / "state"
    found: list[FindingsRecord] = []
    with opened_state(path, DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        engine.take([teller.batch(0)], at(0))
        for seconds in range(0, 240, 30):
            engine.take([teller.batch(seconds, (), "mesh.processes", PLATFORM)], at(seconds))
            found += engine.tick(at(seconds))
    assert said(found) == [("source_silent", "web1", "OPEN")]
    with opened_state(path, DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        for seconds in range(300, 900, 30):
            engine.take([teller.batch(seconds, (), "mesh.processes", PLATFORM)], at(seconds))
            assert engine.tick(at(seconds)) == []
        engine.take([teller.batch(900)], at(900))
        ended = engine.tick(at(901))
    assert said(ended) == [("source_silent", "web1", "ENDED")]
    assert ended[0].id == found[0].id
    assert ended[0].time.ToDatetime(at(0).tzinfo) == at(900)


def test_a_source_that_is_forgotten_is_no_longer_expected(tmp_path: Path) -> None:
    teller = Teller()
    week = 7 * 86_400
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        engine.take([teller.batch(0)], at(0))
        found = []
        for seconds in range(0, 240, 30):
            engine.take([teller.batch(seconds, (), "mesh.processes", PLATFORM)], at(seconds))
            found += engine.tick(at(seconds))
        engine.take([teller.batch(week + 10, (), "mesh.processes", PLATFORM)], at(week + 10))
        found += engine.tick(at(week + 10))
        assert [product for product, _ in state.streams()] == ["mesh.processes"]
    assert said(found) == [("source_silent", "web1", "OPEN"), ("source_silent", "web1", "ENDED")]


def test_who_is_deaf_notices_before_the_shortest_promise_is_over(tmp_path: Path) -> None:
    teller = Teller()
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = Engine(state, DETECTIONS, Thresholds(silence_factor=1), OWN, Distrust())
        for source in (WEB1, PLATFORM):
            engine.take([teller.batch(0, (), "mesh.processes", source)], at(0))
        for seconds in range(0, 120, 5):
            assert engine.tick(at(seconds)) == []
        # The first to be heard again must not make all others silent.
        engine.take([teller.batch(120, (), "mesh.processes", PLATFORM)], at(120))
        assert engine.tick(at(121)) == []


def test_those_beyond_the_bound_share_one_finding_that_ends_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.analysis.episodes.MOST_OPEN", 3)
    fleet = [f"spiffe://servers.telltale.internal/agent/web{number}" for number in range(10)]
    teller = Teller()
    found = []
    with opened_state(tmp_path / "state", DETECTIONS) as state:
        engine = engine_of(state, DETECTIONS)
        for number, source in enumerate(fleet):
            engine.take([teller.batch(number, source=source)], at(number))
        for seconds in range(0, 600, 20):
            engine.take([teller.batch(seconds, (), "mesh.processes", PLATFORM)], at(seconds))
            found += engine.tick(at(seconds))
        assert len([record for record in found if record.state == State.STATE_OPEN]) == 4
        assert not [record for record in found if record.state == State.STATE_ENDED]
        for source in fleet:
            engine.take([teller.batch(600, source=source)], at(600))
        ended = engine.tick(at(601))
    assert len(ended) == 4
    assert {record.id for record in ended} == {record.id for record in found}
