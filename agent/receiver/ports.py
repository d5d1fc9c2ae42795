"""UDP ports, read by a thread that does nothing else, so that the kernel's buffers stay empty meanwhile."""

import asyncio
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import structlog

from agent.receiver.flows.decoder import Datagram
from agent.receiver.manifest import Address
from telltale.errors import Precondition

log = structlog.get_logger(__name__)

# Half a second of 100,000 flows a second, as the kernel counts: it takes 2 KiB for a datagram of 1.5 KiB.
_WANTED_BUFFER = 16 << 20
# What waits to be decoded; beyond that it is counted and thrown away.
_MOST_WAITING_BYTES = 64 << 20
_LARGEST_DATAGRAM = 65_535
# Datagrams of one port before the others have their turn.
_AT_A_TIME = 256
# Linux; Python does not name them. The first needs CAP_NET_ADMIN, the second tells what the kernel dropped.
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_MEMINFO = struct.Struct("=9I")


class Port:
    """One bound port."""

    def __init__(self, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            _enlarge(self._socket, address)
            self._socket.bind((address.host, address.port))
        except OSError as refused:
            self._socket.close()
            raise Precondition(
                f"UDP {address} cannot be bound: {refused.strerror}; free it, or correct the manifest"
            ) from None
        self.address = Address(*self._socket.getsockname()[:2])
        self._dropped = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Datagram]:
        """Up to some datagrams that have come."""
        found: list[Datagram] = []
        while len(found) < _AT_A_TIME:
            try:
                data, sender = self._socket.recvfrom(_LARGEST_DATAGRAM)
            except BlockingIOError:
                break
            found.append(Datagram(data, sender[0], time.time_ns()))
        return found

    def take_dropped(self) -> int:
        """Datagrams that the kernel has dropped because its buffer was full, since the last time."""
        told = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
        dropped: int = (told[-1] - self._dropped) % (1 << 32)
        self._dropped = told[-1]
        return dropped

    def close(self) -> None:
        self._socket.close()


class Ports:
    """Binds ports and reads them. Use as `async with`."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Datagram]] = deque()
        self._waiting_bytes = 0
        self._overflow = 0
        self._ports: list[Port] = []

    async def __aenter__(self) -> Self:
        try:
            for address in self._addresses:
                self._ports.append(Port(address))
        except BaseException:
            self._close()
            raise
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._read, name="ports", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._end)
        await asyncio.to_thread(self._thread.join)
        os.close(self._ended)
        self._close()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, port by port."""
        return tuple(port.address for port in self._ports)

    def take(self, most_bytes: int) -> tuple[list[list[Datagram]], bool]:
        """The datagrams of each port, oldest first, up to a size; and whether more wait."""
        taken: list[list[Datagram]] = [[] for _ in self._ports]
        size = 0
        with self._lock:
            while self._waiting and size < most_bytes:
                index, datagram = self._waiting.popleft()
                taken[index].append(datagram)
                size += len(datagram.data)
            self._waiting_bytes -= size
            return taken, bool(self._waiting)

    def take_dropped(self) -> list[tuple[Address, int]]:
        """What the kernel dropped at each port since the last time, where it did."""
        dropped = [(port.address, port.take_dropped()) for port in self._ports]
        return [(address, count) for address, count in dropped if count]

    def take_overflow(self) -> int:
        """Datagrams that were read and thrown away because too many waited, since the last time."""
        with self._lock:
            overflow, self._overflow = self._overflow, 0
            return overflow

    def _read(self) -> None:
        ready = select.poll()
        ready.register(self._ended)
        by_number = {port.fileno(): index for index, port in enumerate(self._ports)}
        for number in by_number:
            ready.register(number, select.POLLIN)
        while True:
            for number, _ in ready.poll():
                if number == self._ended:
                    return
                index = by_number[number]
                self._keep(index, self._ports[index].read())

    def _keep(self, index: int, datagrams: Sequence[Datagram]) -> None:
        with self._lock:
            for datagram in datagrams:
                if self._waiting_bytes + len(datagram.data) > _MOST_WAITING_BYTES:
                    self._overflow += 1
                else:
                    self._waiting.append((index, datagram))
                    self._waiting_bytes += len(datagram.data)

    def _close(self) -> None:
        for port in self._ports:
            port.close()
        self._ports = []


def _enlarge(opened: socket.socket, address: Address) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WANTED_BUFFER)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WANTED_BUFFER)
    # The kernel tells twice of what was asked.
    given = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if given < _WANTED_BUFFER:
        log.warning(
            "the kernel gives this port a small buffer; it drops datagrams when many come at once",
            port=str(address),
            bytes=given,
            cure=f"sysctl -w net.core.rmem_max={_WANTED_BUFFER}",
        )
