"""Login records: the layout against the C library's own writer, reading across rotations and restarts."""

import ctypes
import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collectors import CannotCollect, Host
from agent.collectors.servers.logins import Logins
from agent.host.growing_file import GrowingFile
from agent.host.utmp import RECORD, WIDE, Kind, parse_utmp
from agent.positions import Positions
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_UPSTREAM, Loss
from telltale.api.servers.v1.logins_pb2 import (
    LOGIN_EVENT_BOOT,
    LOGIN_EVENT_FAILED,
    LOGIN_EVENT_LOGIN,
    LOGIN_EVENT_LOGOUT,
    LOGIN_EVENT_SHUTDOWN,
    LoginsRecord,
)


def entry(
    kind: Kind,
    terminal: str = "",
    account: str = "",
    host: str = "",
    process_id: int = 7,
    seconds: int = 1_795_436_934,
) -> bytes:
    address = ipaddress.ip_address(host).packed if host.startswith("192.") else b""
    return RECORD.pack(
        kind,
        process_id,
        terminal.encode(),
        b"",
        account.encode(),
        host.encode(),
        0,
        seconds,
        500_000,
        address,
    )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for name in ("etc", "var/log", "state"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n")
    for name in ("wtmp", "btmp"):
        (tmp_path / "var/log" / name).touch()
    return Host(etc=tmp_path / "etc", var=tmp_path / "var", positions=Positions(tmp_path / "state"))


def append(host: Host, name: str, *entries: bytes) -> None:
    with (host.var / "log" / name).open("ab") as file:
        file.write(b"".join(entries))


def told(collector: Logins) -> list[tuple[int, str, str]]:
    return [
        (record.event, record.account, record.remote_address)
        for record in collector.collect()
        if isinstance(record, LoginsRecord)
    ]


def test_the_layout_is_that_of_the_c_library(tmp_path: Path) -> None:
    library = ctypes.CDLL(None)
    path = tmp_path / "wtmp"
    path.touch()
    written = entry(Kind.USER_PROCESS, "pts/0", "ada", "192.0.2.7")
    library.updwtmp(os.fsencode(path), ctypes.create_string_buffer(written))
    assert path.read_bytes() == written
    (read,) = parse_utmp(written)
    assert (read.terminal, read.account, read.remote_host, read.address) == (
        "pts/0",
        "ada",
        "192.0.2.7",
        "192.0.2.7",
    )
    assert read.unix_ns == 1_795_436_934_500_000_000


def test_times_beyond_2038_and_wide_records_are_read() -> None:
    (late,) = parse_utmp(entry(Kind.BOOT_TIME, seconds=-1 if RECORD is not WIDE else 2**32 - 1))
    assert late.unix_ns // 10**9 == 2**32 - 1
    address = ipaddress.ip_address("2001:db8::1")
    packed = WIDE.pack(7, 8, b"pts/1", b"", b"ada", b"", 0, 2**33, 1, address.packed)
    (wide,) = parse_utmp(packed, WIDE)
    assert (wide.address, wide.unix_ns) == ("2001:db8::1", 2**33 * 10**9 + 1000)


@given(st.binary(max_size=3 * RECORD.size))
def test_any_bytes_are_read_without_a_fault(data: bytes) -> None:
    assert len(list(parse_utmp(data))) == len(data) // RECORD.size


def test_a_session_is_told_from_login_to_logout(host: Host) -> None:
    collector = Logins(host)
    assert told(collector) == []
    append(host, "wtmp", entry(Kind.BOOT_TIME, "~", "reboot", "6.1.0-13-amd64"))
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/0", "ada", "192.0.2.7"))
    assert told(collector) == [(LOGIN_EVENT_BOOT, "", ""), (LOGIN_EVENT_LOGIN, "ada", "192.0.2.7")]
    append(host, "wtmp", entry(Kind.DEAD_PROCESS, "tty1"), entry(Kind.DEAD_PROCESS, "pts/0"))
    append(host, "wtmp", entry(Kind.RUN_LEVEL, "~", "shutdown"))
    assert told(collector) == [(LOGIN_EVENT_LOGOUT, "ada", "192.0.2.7"), (LOGIN_EVENT_SHUTDOWN, "", "")]
    assert told(collector) == []


def test_a_failed_login_hides_what_may_be_a_password(host: Host) -> None:
    collector = Logins(host)
    told(collector)
    append(host, "btmp", entry(Kind.LOGIN_PROCESS, "ssh:notty", "ada", "192.0.2.9"))
    append(host, "btmp", entry(Kind.LOGIN_PROCESS, "ssh:notty", "correct horse", "192.0.2.9"))
    assert told(collector) == [
        (LOGIN_EVENT_FAILED, "ada", "192.0.2.9"),
        (LOGIN_EVENT_FAILED, "***", "192.0.2.9"),
    ]


def test_a_process_is_named_only_where_one_is_known(host: Host) -> None:
    collector = Logins(host)
    told(collector)
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/0", "ada", process_id=42))
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/1", "ada", process_id=0))
    append(host, "wtmp", entry(Kind.BOOT_TIME, "~", "reboot", process_id=42))
    records = [record for record in collector.collect() if isinstance(record, LoginsRecord)]
    assert [record.process_id if record.HasField("process_id") else None for record in records] == [
        42,
        None,
        None,
    ]


def test_a_restart_neither_skips_nor_repeats(host: Host) -> None:
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/0", "ada"))
    before = Logins(host)
    assert told(before) == [], "what stood there before the first start was imported"
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/1", "root"))
    assert told(before) == [(LOGIN_EVENT_LOGIN, "root", "")]
    host.positions.save("servers.logins")
    append(host, "wtmp", entry(Kind.DEAD_PROCESS, "pts/0"))
    state = host.positions._directory
    after = Logins(Host(etc=host.etc, var=host.var, positions=Positions(state)))
    # The session was open when the agent started: its account is known from what stands before the position.
    assert told(after) == [(LOGIN_EVENT_LOGOUT, "ada", "")]


def test_a_rotation_loses_nothing(host: Host) -> None:
    collector = Logins(host)
    told(collector)
    wtmp = host.var / "log" / "wtmp"
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/0", "ada"))
    wtmp.rename(wtmp.with_name("wtmp.1"))
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/1", "root"))
    assert told(collector) == [(LOGIN_EVENT_LOGIN, "ada", ""), (LOGIN_EVENT_LOGIN, "root", "")]


@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_what_a_rotation_takes_away_unread_is_a_loss(tmp_path: Path, how: str) -> None:
    path = tmp_path / "wtmp"
    path.write_bytes(b"aabb")
    file = GrowingFile(path, record_bytes=2)
    if how == "replaced":
        (tmp_path / "new").write_bytes(b"cc")
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"cc")
    data, losses = file.read()
    assert data == b"cc"
    assert [loss.reason for loss in losses] == [LOSS_REASON_UPSTREAM]
    assert all(isinstance(loss, Loss) for loss in losses)


def test_half_a_record_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "wtmp"
    path.write_bytes(b"a")
    file = GrowingFile(path, record_bytes=2)
    for appended, expected in ((b"ab", b"aa"), (b"", b""), (b"b", b"bb")):
        with path.open("ab") as writer:
            writer.write(appended)
        assert file.read() == (expected, [])


def test_a_host_without_login_records_says_so(host: Host) -> None:
    (host.var / "log" / "wtmp").unlink()
    with pytest.raises(CannotCollect, match="keeps no login records"):
        list(Logins(host).collect())


def test_missing_failures_limit_the_product_and_do_not_stop_it(host: Host) -> None:
    (host.var / "log" / "btmp").unlink()
    collector = Logins(host)
    told(collector)
    append(host, "wtmp", entry(Kind.USER_PROCESS, "pts/0", "ada"))
    assert told(collector) == [(LOGIN_EVENT_LOGIN, "ada", "")]
    assert collector.limited.endswith("failed logins are not seen")
