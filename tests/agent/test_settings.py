"""The agent's settings, its status file and its positions."""

import json
import math
from datetime import timedelta
from pathlib import Path

import pytest

from agent import status_file
from agent.positions import Positions
from agent.settings import AgentSettings, parse_duration
from agent.status import AgentStatus, CollectorStatus, SpoolStatus, State
from telltale.errors import ConfigurationError, Precondition


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    values = {
        "STATE": str(tmp_path),
        "TRUST": str(tmp_path),
        "AUTHORITY": "127.0.0.1:1",
        "ENROLLMENT": "127.0.0.1:2",
        "SERVICE": "127.0.0.1:3",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"TELLTALE_{name}", value)
    return monkeypatch


def test_by_default_everything_is_collected_at_its_own_interval(environment: pytest.MonkeyPatch) -> None:
    settings = AgentSettings.read()
    assert (settings.collect, settings.intervals, settings.spool_bytes) == (("*",), {}, 1 << 30)


def test_intervals_and_products_are_read_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TELLTALE_INTERVALS", "servers.cpu=5s, servers.units=5m,")
    environment.setenv("TELLTALE_COLLECT", "servers.cpu, servers.disk_*")
    settings = AgentSettings.read()
    assert settings.intervals == {
        "servers.cpu": timedelta(seconds=5),
        "servers.units": timedelta(minutes=5),
    }
    assert settings.collect == ("servers.cpu", "servers.disk_*")


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1.5m", 90), ("1h", 3600)])
def test_durations_carry_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("INTERVALS", "servers.cpu", "'servers.cpu' is no interval; write it like servers.cpu=5s"),
        ("INTERVALS", "servers.cpu=5", "'5' is no duration; write it like 500ms, 10s, 5m or 1h"),
        ("INTERVALS", "servers.cpu=1ms", "servers.cpu would be read more often than every 100ms"),
        ("COLLECT", "servers.CPU", "no product name or pattern"),
        ("COLLECT", ",", "names no product"),
        ("SPOOL_BYTES", "-1", "greater than or equal to 1048576"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_wrong(
    environment: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    environment.setenv(f"TELLTALE_{name}", value)
    with pytest.raises(ConfigurationError) as wrong:
        AgentSettings.read()
    assert f"TELLTALE_{name}: " in str(wrong.value)
    assert message.lower() in str(wrong.value).lower()


def collected(state: State) -> AgentStatus:
    status = CollectorStatus("servers.cpu", 10.0, state, "", 0, 0.1, 1, 0, 5, 0)
    return AgentStatus({"servers.cpu": status}, SpoolStatus(bytes=10, batches=2))


def test_a_working_agent_is_healthy_whether_or_not_it_is_heard(tmp_path: Path) -> None:
    status_file.write(tmp_path, collected(State.OK), "spiffe://servers.example/agent/a", None, math.inf)
    written = (tmp_path / status_file.NAME).stat().st_mtime
    assert status_file.check(tmp_path, written) == (
        "spiffe://servers.example/agent/a: 1 of 1 collectors work, 5 records collected, 2 batches wait"
    )


def test_a_full_spool_is_told_with_what_it_has_cost(tmp_path: Path) -> None:
    status = collected(State.OK)
    status.spool = SpoolStatus(1_000, 2, limit_bytes=1_000, shed=3, lost=7)
    status_file.write(tmp_path, status, "a", None, math.inf)
    said = status_file.check(tmp_path, (tmp_path / status_file.NAME).stat().st_mtime)
    assert said.endswith("the spool was full: 3 batches of samples shed, 7 records lost since the start")


def test_an_agent_that_hangs_or_reads_nothing_is_not_healthy(tmp_path: Path) -> None:
    with pytest.raises(Precondition, match="not joined or not started"):
        status_file.check(tmp_path, 0.0)
    status_file.write(tmp_path, collected(State.OK), "a", None, math.inf)
    written = (tmp_path / status_file.NAME).stat().st_mtime
    with pytest.raises(Precondition, match="stopped or hangs"):
        status_file.check(tmp_path, written + 31.0)
    status_file.write(tmp_path, collected(State.FAILING), "a", None, math.inf)
    with pytest.raises(Precondition, match="none of the 1 collectors works"):
        status_file.check(tmp_path, written)


def test_an_agent_whose_certificate_has_ended_needs_an_operator_running_or_not(
    tmp_path: Path,
) -> None:
    status_file.write(tmp_path, collected(State.OK), "spiffe://servers.example/agent/a", None, 1_000.0)
    written = (tmp_path / status_file.NAME).stat().st_mtime
    for later in (0.0, 3600.0):
        with pytest.raises(Precondition, match=r"expired at 1970-01-01 00:16:40 UTC; .* 2 batches"):
            status_file.check(tmp_path, written + later)


def test_a_position_is_durable_once_it_is_saved(tmp_path: Path) -> None:
    positions = Positions(tmp_path / "positions")
    assert positions.get("servers.logins") is None
    positions.save("servers.logins")
    positions.set("servers.logins", "7")
    assert Positions(tmp_path / "positions").get("servers.logins") is None
    positions.save("servers.logins")
    assert Positions(tmp_path / "positions").get("servers.logins") == "7"
    assert [path.name for path in (tmp_path / "positions").iterdir()] == ["servers.logins"]


def test_an_agent_that_joined_needs_its_directory_alone_and_what_is_set_by_hand_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"mesh": "m.test", "authority": "a:1", "enrollment": "e:1", "service": "s:1"}
    (tmp_path / "agent.json").write_text(json.dumps(told))
    monkeypatch.setenv("TELLTALE_STATE", str(tmp_path))
    settings = AgentSettings.read()
    assert (settings.mesh, settings.authority, settings.service) == ("m.test", "a:1", "s:1")
    assert settings.trust == tmp_path / "trust"
    monkeypatch.setenv("TELLTALE_SERVICE", "other:1")
    assert AgentSettings.read().service == "other:1"


def test_an_agent_that_has_not_joined_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLTALE_STATE", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"TELLTALE_SERVICE: .*telltale agent join"):
        AgentSettings.read()
