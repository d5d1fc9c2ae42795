import os
import socket
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.proc_net import parse_tcp, tcp_sockets
from agent.kernel.sock_diag import (
    CLOSE_WAIT,
    CLOSED,
    CONNECTED,
    ESTABLISHED,
    FIN_WAIT_2,
    LISTEN,
    SocketDump,
    address_text,
    parse_socket,
)
from agent.kernel.socket_owners import SocketOwners

# ruff: noqa: E501 - captured tables

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12659 1 000 100 0 0 10 0
   1: 0100007F:1F90 0200007F:C2F0 01 00000000:00000000 00:00000000 00000000  1000        0 12660 1 000 20 4 30 10 -1
   2: 0100007F:C2F0 0100007F:1F90 06 00000000:00000000 03:00000F2A 00000000     0        0 0 3 000
"""
TABLE_6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when \
retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F90 0000000000000000FFFF00000200007F:C2F0 01 00000000:00000000 00:00000000 \
00000000     0        0 777 1 000 20 4 30 10 -1
"""


def notice(sent: int, received: int, acknowledged: int) -> bytes:
    """A destroy notice as Linux 6.18 sends it, with what it tells set to the given numbers."""
    fixed = struct.pack(
        "!BBBBHH16s16s",
        socket.AF_INET,
        CLOSED,
        0,
        0,
        48998,
        46805,
        bytes((127, 0, 0, 1)),
        bytes((10, 0, 0, 2)),
    )
    info = bytearray(280)
    struct.pack_into("=QQ", info, 120, acknowledged, received)
    struct.pack_into("=QQ", info, 200, sent + 7, 7)
    attributes = struct.pack("=HHB3x", 5, 10, 6) + struct.pack("=HH", 284, 2) + bytes(info)
    return fixed + struct.pack("=IQIIIII", 0, 4711, 0, 1, 0, 0, 0) + attributes


def test_a_notice_tells_addresses_ports_cookie_and_bytes() -> None:
    found = parse_socket(notice(sent=100, received=51, acknowledged=102))
    assert found is not None
    assert (found.local_address, found.local_port) == ("127.0.0.1", 48998)
    assert (found.remote_address, found.remote_port) == ("10.0.0.2", 46805)
    assert (found.cookie, found.state) == (4711, CLOSED)
    assert (found.sent_bytes, found.received_bytes, found.was_answered) == (100, 51, True)


def test_an_attempt_that_nobody_answered_is_known() -> None:
    found = parse_socket(notice(sent=0, received=0, acknowledged=0))
    assert found is not None and not found.was_answered


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_without_error(data: bytes) -> None:
    parse_socket(data)


def test_an_ipv4_address_in_an_ipv6_one_is_shown_as_ipv4() -> None:
    mapped = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1")
    assert address_text(socket.AF_INET6, mapped) == "192.0.2.1"
    assert address_text(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "2001:db8::1")) == "2001:db8::1"


def test_the_dump_shows_both_ends_and_the_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        dump = SocketDump()
        try:
            found = {entry.inode: entry for entry in dump.sockets(CONNECTED | {LISTEN})}
        finally:
            dump.close()
        port = server.getsockname()[1]
        near = found[os.fstat(client.fileno()).st_ino]
        far = found[os.fstat(accepted.fileno()).st_ino]
        listening = found[os.fstat(server.fileno()).st_ino]
        assert (near.local_port, near.remote_port) == (client.getsockname()[1], port)
        assert (far.local_port, far.remote_port) == (port, client.getsockname()[1])
        assert (listening.state, listening.local_port) == (LISTEN, port)
        assert near.account_id == os.getuid() and near.is_connected and near.cookie
        owners = SocketOwners(Path("/proc")).find([near.inode, listening.inode])
        assert {owner.process for owner in owners.values()} == {os.getpid()} and len(owners) == 2


def test_the_plain_table_tells_the_same_sockets() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        inode = os.fstat(client.fileno()).st_ino
        found = next(entry for entry in tcp_sockets(Path("/proc")) if entry.inode == inode)
        assert (found.local_address, found.local_port) == client.getsockname()
        assert (found.remote_address, found.remote_port) == server.getsockname()


def test_a_captured_table_is_read_without_what_nobody_holds() -> None:
    listening, connected = parse_tcp(TABLE)
    assert (listening.state, listening.local_address, listening.local_port) == (LISTEN, "127.0.0.1", 8080)
    assert (connected.state, connected.remote_address, connected.remote_port) == (
        ESTABLISHED,
        "127.0.0.2",
        49904,
    )
    assert (connected.account_id, connected.inode, connected.cookie) == (1000, 12660, 12660)


def test_a_captured_table_of_ipv6_is_read() -> None:
    (found,) = parse_tcp(TABLE_6)
    assert (found.local_address, found.remote_address) == ("::1", "127.0.0.2")


def test_what_no_process_holds_any_more_is_no_connection() -> None:
    held, orphan = (
        parse_tcp(TABLE.splitlines()[0] + "\n" + TABLE.splitlines()[2].replace(" 01 ", f" {state:02X} "))
        for state in (CLOSE_WAIT, FIN_WAIT_2)
    )
    assert next(held).is_connected and next(orphan).is_connected


def test_a_search_that_found_nothing_is_not_repeated(tmp_path: Path) -> None:
    owners = SocketOwners(tmp_path)
    assert owners.find([1, 2, 0]) == {}
    descriptors = tmp_path / "7" / "fd"
    descriptors.mkdir(parents=True)
    (descriptors / "3").symlink_to("socket:[1]")
    (tmp_path / "7" / "stat").write_text("7 (x) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 0 0 1 0 99 0")
    assert owners.find([1]) == {}
    owners.keep(set())
    owners._saved_seconds = 1
    assert owners.find([1])[1].process == 7
