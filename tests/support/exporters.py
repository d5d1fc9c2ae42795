"""A real exporter and a real collector: softflowd exports a capture, nfcapd and nfdump decode it."""

import json
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.datagrams import packed
from tests.support.domain import free_port

_PATIENCE_SECONDS = 60.0


def packets() -> list[bytes]:
    """Frames of Ethernet: TCP both ways, UDP over IPv4 and IPv6, and pings, of twenty hosts."""
    frames = []
    for host in range(1, 21):
        four, six = f"192.0.2.{host}", f"2001:db8::{host:x}"
        for flags, size in ((0x02, 0), (0x10, 0), (0x18, 100 + host), (0x11, 0)):
            frames.append(_four(four, "198.51.100.7", 6, _tcp(40_000 + host, 443, flags, size), 0x20))
        frames.append(_four("198.51.100.7", four, 6, _tcp(443, 40_000 + host, 0x12, 1_000)))
        frames.append(_four(four, "198.51.100.53", 17, _udp(5_000 + host, 53, 40)))
        frames.append(_six(six, "2001:db8:1::7", 17, _udp(5_000 + host, 443, 900)))
        frames.append(_four(four, "198.51.100.9", 1, struct.pack("!BBHHH", 8, 0, 0, 1, host) + bytes(20)))
    return frames


def write_pcap(path: Path, frames: Sequence[bytes], first: float) -> None:
    """A capture of the frames, ten milliseconds apart."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1))
        for index, frame in enumerate(frames):
            seconds, micros = divmod(int((first + index / 100) * 1e6), 10**6)
            file.write(struct.pack("<IIII", seconds, micros, len(frame), len(frame)) + frame)


def exported(pcap: str, version: int, scratch: Path) -> list[bytes]:
    """The datagrams that softflowd exports of a capture, a file of the directory."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        collector.bind(("127.0.0.1", 0))
        port = collector.getsockname()[1]
        # With a control socket it sometimes waits there for ever.
        control = ("-p", "none", "-c", "none")
        done = subprocess.run(
            [
                "softflowd",
                "-r",
                pcap,
                "-v",
                str(version),
                "-n",
                f"127.0.0.1:{port}",
                "-a",
                "-6",
                "-d",
                *control,
            ],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        collector.setblocking(False)
        datagrams = []
        while True:
            try:
                datagrams.append(collector.recv(65_535))
            except BlockingIOError:
                return datagrams


def nfdumped(datagrams: Sequence[bytes], scratch: Path) -> list[dict[str, Any]]:
    """What nfcapd makes of datagrams, as nfdump prints it."""
    port, directory = free_port(), scratch / "nfcapd"
    directory.mkdir()
    with subprocess.Popen(
        ["nfcapd", "-w", str(directory), "-p", str(port), "-b", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as collector:
        try:
            _until(lambda: f"0100007F:{port:04X}" in Path("/proc/net/udp").read_text())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for datagram in datagrams:
                    sender.sendto(datagram, ("127.0.0.1", port))
            _until(lambda: _waiting(port) == 0)
        finally:
            # It writes what it has when it is told to stop.
            collector.send_signal(signal.SIGTERM)
            collector.wait(_PATIENCE_SECONDS)
    (file,) = directory.glob("nfcapd.2*")
    done = subprocess.run(
        ["nfdump", "-r", str(file), "-o", "json"], capture_output=True, check=True, timeout=_PATIENCE_SECONDS
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _waiting(port: int) -> int:
    """Bytes that wait at a UDP port of the loopback interface."""
    for line in Path("/proc/net/udp").read_text().splitlines():
        if f"0100007F:{port:04X}" in line:
            return int(line.split()[4].partition(":")[2], 16)
    raise LookupError(port)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _four(source: str, destination: str, protocol: int, payload: bytes, tos: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 1, 0, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + head + packed(source) + packed(destination) + payload


def _six(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return bytes(12) + b"\x86\xdd" + head + packed(source) + packed(destination) + payload


def _tcp(source: int, destination: int, flags: int, size: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 0x50, flags, 1_000, 0, 0) + bytes(size)


def _udp(source: int, destination: int, size: int) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + size, 0) + bytes(size)
