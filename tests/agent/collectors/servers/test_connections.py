import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.message import Message

from agent.collectors import CannotCollect, Host, Watcher
from agent.collectors.servers.connections import Connections, unfollowed_loss
from agent.host.connection_table import (
    CLOSED,
    FOUND,
    INCOMING,
    OPENED,
    OUTGOING,
    ConnectionTable,
)
from agent.host.local_accounts import AccountNames
from agent.kernel.sock_diag import ESTABLISHED, FIN_WAIT_2, LISTEN, DestroyNotices, Socket, SocketDump
from agent.kernel.socket_owners import SocketOwners
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_BOUND, LOSS_REASON_METHOD, Loss
from telltale.api.servers.v1.connections_pb2 import ConnectionsRecord

SECOND = 10**9


def is_told() -> bool:
    """Whether this kernel tells this process of ended connections."""
    try:
        DestroyNotices().close()
    except OSError:
        return False
    return True


def refuse_notices() -> DestroyNotices:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def refuse_dump() -> SocketDump:
    raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")


def connections(messages: list[Message]) -> list[ConnectionsRecord]:
    return [message for message in messages if isinstance(message, ConnectionsRecord)]


@contextmanager
def echo_server() -> Iterator[int]:
    """A server on loopback that answers each connection with what it got, and ends it."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def serve() -> None:
            while True:
                accepted, _ = server.accept()
                with accepted:
                    if accepted.recv(100) == b"stop":
                        return
                    accepted.sendall(b"y" * 10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            with socket.create_connection(server.getsockname()) as last:
                last.sendall(b"stop")
            thread.join()


async def short_connection(port: int, ports: set[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ports.add(writer.get_extra_info("sockname")[1])
    await asyncio.sleep(0.005)
    writer.write(b"x" * 100)
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_thousand_connections_of_five_milliseconds_all_appear() -> None:
    collector = Connections(Host())
    assert isinstance(collector, Watcher)
    if not is_told():
        with pytest.raises(CannotCollect, match="CAP_NET_ADMIN"):
            await anext(collector.watch())
        return
    wanted: set[int] = set()
    near: dict[int, ConnectionsRecord] = {}
    far: dict[int, ConnectionsRecord] = {}
    listener_known = asyncio.Event()
    with echo_server() as port:

        async def connect() -> None:
            # A search for the listener's process takes its share of the processor only, so give it the time.
            while not listener_known.is_set():
                await short_connection(port, set())
            for _ in range(100):
                await asyncio.gather(*(short_connection(port, wanted) for _ in range(10)))

        async with asyncio.timeout(60), aclosing(collector.watch()) as bursts:
            connecting = asyncio.create_task(connect())
            async for burst in bursts:
                for record in connections(list(burst)):
                    if record.state == CLOSED and record.remote_port == port:
                        assert record.local_port not in near, "told twice"
                        near[record.local_port] = record
                    elif record.state == CLOSED and record.local_port == port:
                        assert record.remote_port not in far, "told twice"
                        far[record.remote_port] = record
                        if record.process_id == os.getpid():
                            listener_known.set()
                if connecting.done() and wanted <= near.keys() and wanted <= far.keys():
                    break
    assert len(wanted) == 1000
    for local_port in wanted:
        record = near[local_port]
        assert (record.local_address, record.remote_address) == ("127.0.0.1", "127.0.0.1")
        assert record.direction == OUTGOING and far[local_port].direction == INCOMING
        assert (record.sent_bytes, far[local_port].sent_bytes) == (100, 10)
        # The listening port tells whose the other end was, however short its life.
        assert far[local_port].process_id == os.getpid() and far[local_port].account_id == os.getuid()
    assert len({record.connection_id for record in (*near.values(), *far.values())}) >= 2000


async def test_a_longer_connection_is_told_open_and_closed_with_process_and_duration() -> None:
    collector = Connections(Host(), subscribe=DestroyNotices if is_told() else refuse_notices)
    if not is_told():
        return
    with echo_server() as port:
        client = socket.create_connection(("127.0.0.1", port))
        local_port = client.getsockname()[1]
        seen: list[ConnectionsRecord] = []
        async with asyncio.timeout(30), aclosing(collector.watch()) as bursts:
            async for burst in bursts:
                for record in connections(list(burst)):
                    if record.local_port == local_port:
                        seen.append(record)
                        client.close()
                if seen and seen[-1].state == CLOSED:
                    break
    first, last = seen
    assert (first.state, first.process_id, first.account_id) == (FOUND, os.getpid(), os.getuid())
    assert (last.process_id, last.connection_id) == (os.getpid(), first.connection_id)
    assert not last.HasField("duration"), "its beginning was not seen"


async def test_refused_notices_say_what_would_help() -> None:
    with pytest.raises(CannotCollect, match=r"Operation not permitted.*CAP_NET_ADMIN"):
        await anext(Connections(Host(), subscribe=refuse_notices).watch())


@pytest.mark.parametrize("dump", [SocketDump, refuse_dump])
def test_looking_alone_tells_what_stays_and_says_what_it_misses(dump: type[SocketDump]) -> None:
    collector = Connections(Host(), subscribe=refuse_notices, dump=dump)
    looks = [list(collector.collect())]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        local_port, port = client.getsockname()[1], server.getsockname()[1]
        accepted, _ = server.accept()
        looks.append(list(collector.collect()))
        client.close()
        accepted.close()
        looks.append(list(collector.collect()))
    for look in looks:
        assert [message.reason for message in look if isinstance(message, Loss)] == [LOSS_REASON_METHOD]
    mine = [
        record
        for look in looks
        for record in connections(look)
        if port in (record.local_port, record.remote_port)
    ]
    assert {(record.state, record.direction) for record in mine} == {
        (OPENED, OUTGOING), (OPENED, INCOMING), (CLOSED, OUTGOING), (CLOSED, INCOMING),
    }  # fmt: skip
    assert len(mine) == 4
    opened, closed = (record for record in mine if record.local_port == local_port)
    assert opened.process_id == closed.process_id == os.getpid()
    assert closed.HasField("duration") and not closed.HasField("sent_bytes")


def test_a_host_that_shows_no_sockets_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotCollect, match="net/tcp"):
        list(Connections(Host(proc=tmp_path), dump=refuse_dump).collect())


# ---- The table alone ----

HERE = Socket(ESTABLISHED, "10.0.0.1", 40_000, "10.0.0.2", 443, cookie=1, account_id=0, inode=77)
GONE = replace(HERE, state=7, inode=0, sent_bytes=5, received_bytes=6)
LISTENING = Socket(LISTEN, "0.0.0.0", 22, "0.0.0.0", 0, cookie=2, account_id=65534, inode=78)
COMING = Socket(ESTABLISHED, "10.0.0.1", 22, "10.0.0.3", 50_000, cookie=3, account_id=0, inode=0)


@pytest.fixture
def table(tmp_path: Path) -> ConnectionTable:
    return ConnectionTable(SocketOwners(tmp_path), AccountNames(Path("/etc")), max_connections=3)


def states(records: list[ConnectionsRecord]) -> list[int]:
    return [record.state for record in records]


def test_what_is_there_at_the_first_look_is_found_and_later_opened(table: ConnectionTable) -> None:
    assert states(table.look([HERE], 0, is_told=True)) == [FOUND]
    later = replace(HERE, cookie=9, local_port=40_001)
    assert states(table.look([HERE, later], SECOND, is_told=True)) == [OPENED]
    assert table.look([HERE, later], 2 * SECOND, is_told=True) == []


def test_a_notice_ends_a_connection_once_with_its_bytes_and_duration(table: ConnectionTable) -> None:
    table.look([], 0, is_told=True)
    table.look([HERE], SECOND, is_told=True)
    record = table.ended(GONE, 3 * SECOND)
    assert record is not None and record.duration.ToNanoseconds() == 2 * SECOND
    assert (record.sent_bytes, record.received_bytes) == (5, 6)
    assert table.ended(GONE, 4 * SECOND) is None
    # What lingers of it in a list is not a new one.
    assert table.look([replace(HERE, state=FIN_WAIT_2)], 5 * SECOND, is_told=True) == []


def test_a_connection_whose_notice_was_lost_ends_after_two_lists_without_it(table: ConnectionTable) -> None:
    table.look([HERE], 0, is_told=True)
    assert table.look([], SECOND, is_told=True) == []
    (record,) = table.look([], 2 * SECOND, is_told=True)
    assert record.state == CLOSED and not record.HasField("sent_bytes")
    assert table.ended(GONE, 3 * SECOND) is None


def test_what_waits_to_be_accepted_belongs_to_who_listens(table: ConnectionTable) -> None:
    (record,) = table.look([LISTENING, COMING], 0, is_told=True)
    assert (record.direction, record.account_id) == (INCOMING, 65534)


def test_the_last_connection_of_a_closed_port_is_still_incoming(table: ConnectionTable) -> None:
    table.look([LISTENING], 0, is_told=True)
    table.look([], 30 * SECOND, is_told=True)
    record = table.ended(replace(COMING, cookie=9), 31 * SECOND)
    assert record is not None and record.direction == INCOMING
    table.look([], 90 * SECOND, is_told=True)
    assert not table.is_listening(22)


def test_sockets_that_were_never_connected_are_no_connections(table: ConnectionTable) -> None:
    assert table.ended(replace(GONE, remote_port=0), 0) is None
    assert table.ended(replace(GONE, was_answered=False), 0) is None


def test_more_connections_than_there_is_room_for_are_counted_once(table: ConnectionTable) -> None:
    many = [replace(HERE, cookie=number, local_port=number) for number in range(10, 15)]
    assert len(table.look(many, 0, is_told=True)) == 3
    assert table.unfollowed == 2
    (loss,) = unfollowed_loss(0, table.unfollowed)
    assert (loss.records, loss.reason) == (2, LOSS_REASON_BOUND)
    table.look(many, SECOND, is_told=True)
    assert unfollowed_loss(2, table.unfollowed) == []
    # Their ends are told all the same.
    assert table.ended(replace(GONE, cookie=14, local_port=14), SECOND) is not None
