"""Datagrams of sFlow v5 (sflow.org, sflow_version_5.txt): each sampled packet becomes a flow of one packet.

Every sample has a shape of its own, so they are read one by one: slower than records of templates.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agent.receiver.encoding import Column, Columns, Numbers, Texts, Times
from agent.receiver.flows.meaning import Exported, set_exporter, set_sampling
from agent.receiver.flows.netflow import Malformed

_WORD = struct.Struct("!I")
_FLOW_SAMPLE, _EXPANDED_FLOW_SAMPLE = 1, 3
_RAW_HEADER, _IPV4, _IPV6, _SWITCH, _ROUTER, _GATEWAY = 1, 3, 4, 1001, 1002, 1003
_ETHERNET = 1
_VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_TCP, _WITH_PORTS, _ICMP = 6, (6, 17, 132, 33), (1, 58)
# Headers of IPv6 that another header follows: hop by hop, routing, destination options.
_EXTENSIONS = (0, 43, 60)
_MOST_EXTENSIONS = 8
# More samples than the largest datagram can hold.
_MOST_SAMPLES = 2_048
_MOST_RECORDS = 64
_MOST_SEGMENTS = 1_024
# An interface of all ones in these bits is unknown, or many at once.
_INTERFACE_BITS = 0x3FFFFFFF


@dataclass(frozen=True)
class SFlowHead:
    """Which sub-agent sent a datagram of which number, and what follows."""

    sub_agent: int
    sequence: int
    samples: bytes
    count: int


@dataclass
class Sample:
    """One sampled packet; what is None was not told."""

    rate: int
    size: int = 0
    source: bytes = b""
    destination: bytes = b""
    source_port: int = 0
    destination_port: int = 0
    protocol: int = 0
    tcp_flags: int | None = None
    icmp_type_code: int | None = None
    type_of_service: int | None = None
    vlan: int | None = None
    input_interface: int | None = None
    output_interface: int | None = None
    next_hop: bytes = b""
    source_as: int | None = None
    destination_as: int | None = None


def read_head(datagram: bytes) -> SFlowHead:
    """Raises Malformed when it is cut off."""
    reader = _Reader(datagram)
    reader.word()
    reader.address()
    sub_agent, sequence, _, count = (reader.word() for _ in range(4))
    return SFlowHead(sub_agent, sequence, reader.rest(), count)


def read_samples(head: SFlowHead) -> Iterator[Sample]:
    """The sampled packets; counters are left out. Raises Malformed at the first fault."""
    reader = _Reader(head.samples)
    for _ in range(min(head.count, _MOST_SAMPLES)):
        form = reader.word()
        body = _Reader(reader.take(reader.word()))
        if form in (_FLOW_SAMPLE, _EXPANDED_FLOW_SAMPLE):
            yield _sample(body, expanded=form == _EXPANDED_FLOW_SAMPLE)


def to_columns(samples: Sequence[Sample], exported: Exported) -> Columns:
    """The columns of network.flows."""
    count = len(samples)
    columns: dict[str, Column] = {
        "time": Times(exported.export_ns),
        "start_time": Times(exported.export_ns),
        "source_address": _texts([one.source for one in samples]),
        "destination_address": _texts([one.destination for one in samples]),
        "next_hop_address": _texts([one.next_hop for one in samples]),
        "source_port": _numbers([one.source_port for one in samples]),
        "destination_port": _numbers([one.destination_port for one in samples]),
        "protocol": _numbers([one.protocol for one in samples]),
        "total_bytes": _numbers([one.size for one in samples]),
        "total_packets": Numbers(np.ones(count, np.uint64)),
    }
    for name in (
        "tcp_flags",
        "icmp_type_code",
        "type_of_service",
        "vlan",
        "input_interface",
        "output_interface",
        "source_as",
        "destination_as",
    ):
        columns[name] = _optional([getattr(one, name) for one in samples])
    set_exporter(columns, count, exported)
    set_sampling(columns, np.array([one.rate for one in samples], np.uint64))
    return Columns(count, columns)


class _Reader:
    """XDR: words of four bytes, and what is padded to them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def word(self) -> int:
        if self._place + 4 > len(self._data):
            raise Malformed("sFlow was cut off")
        (value,) = _WORD.unpack_from(self._data, self._place)
        self._place += 4
        return int(value)

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self._place:
            raise Malformed(f"{length} bytes of sFlow where {len(self._data) - self._place} are left")
        taken = self._data[self._place : self._place + length]
        self._place += -(-length // 4) * 4
        return taken

    def address(self) -> bytes:
        kind = self.word()
        if kind not in (0, 1, 2):
            raise Malformed(f"an address of kind {kind}")
        return self.take((0, 4, 16)[kind])

    def rest(self) -> bytes:
        return self._data[self._place :]


def _sample(reader: _Reader, *, expanded: bool) -> Sample:
    reader.word()
    reader.take(8 if expanded else 4)
    rate = reader.word()
    reader.take(8)
    # Expanded, the form of an interface has a word of its own.
    ways = [(reader.word(), reader.word()) if expanded else _compact(reader.word()) for _ in range(2)]
    sample = Sample(rate)
    sample.input_interface, sample.output_interface = (
        number & _INTERFACE_BITS if form == 0 and number & _INTERFACE_BITS != _INTERFACE_BITS else None
        for form, number in ways
    )
    for _ in range(min(reader.word(), _MOST_RECORDS)):
        form = reader.word()
        _add(sample, form, _Reader(reader.take(reader.word())))
    return sample


def _compact(word: int) -> tuple[int, int]:
    return word >> 30, word & _INTERFACE_BITS


def _add(sample: Sample, form: int, record: _Reader) -> None:
    if form == _RAW_HEADER:
        protocol, sample.size, _ = record.word(), record.word(), record.word()
        header = record.take(record.word())
        if protocol == _ETHERNET:
            _ethernet(sample, header)
        elif protocol in (11, 12):
            _ip(sample, header, 4 if protocol == 11 else 6)
    elif form in (_IPV4, _IPV6):
        width = 4 if form == _IPV4 else 16
        sample.size, sample.protocol = record.word(), record.word()
        sample.source, sample.destination = record.take(width), record.take(width)
        sample.source_port, sample.destination_port = record.word() & 0xFFFF, record.word() & 0xFFFF
        flags, sample.type_of_service = record.word() & 0xFF, record.word() & 0xFF
        sample.tcp_flags = flags if sample.protocol == _TCP else None
    elif form == _SWITCH:
        sample.vlan = record.word()
    elif form == _ROUTER:
        sample.next_hop = record.address()
    elif form == _GATEWAY:
        _gateway(sample, record)


def _gateway(sample: Sample, record: _Reader) -> None:
    record.address()
    own, source, _ = record.word(), record.word(), record.word()
    sample.source_as = source
    # The last of the path is where it goes; without a path that is this very system.
    last = own
    for _ in range(min(record.word(), _MOST_SEGMENTS)):
        record.word()
        segment = record.take(4 * min(record.word(), _MOST_SEGMENTS))
        if len(segment) >= 4:
            (last,) = _WORD.unpack_from(segment, len(segment) - 4)
    sample.destination_as = last


def _ethernet(sample: Sample, frame: bytes) -> None:
    place = 12
    while place + 2 <= len(frame):
        kind = int.from_bytes(frame[place : place + 2], "big")
        if kind not in _VLAN_TAGS:
            if kind in (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6):
                _ip(sample, frame[place + 2 :], 4 if kind == _ETHERTYPE_IPV4 else 6)
            return
        if sample.vlan is None:
            sample.vlan = int.from_bytes(frame[place + 2 : place + 4], "big") & 0xFFF
        place += 4


def _ip(sample: Sample, packet: bytes, version: int) -> None:
    """What the head of a packet tells. It may be cut off anywhere: what is not there stays unknown."""
    if version == 4:
        length = (packet[0] & 0x0F) * 4 if packet else 0
        if length < 20 or len(packet) < 20:
            return
        sample.type_of_service, sample.protocol = packet[1], packet[9]
        sample.source, sample.destination = packet[12:16], packet[16:20]
        # Only the first fragment has ports.
        if int.from_bytes(packet[6:8], "big") & 0x1FFF == 0:
            _transport(sample, packet[length:])
        return
    if len(packet) < 40:
        return
    sample.type_of_service = (packet[0] << 4 | packet[1] >> 4) & 0xFF
    sample.source, sample.destination = packet[8:24], packet[24:40]
    following, rest = packet[6], packet[40:]
    for _ in range(_MOST_EXTENSIONS):
        if following not in _EXTENSIONS or len(rest) < 8:
            break
        following, rest = rest[0], rest[(rest[1] + 1) * 8 :]
    sample.protocol = following
    _transport(sample, rest)


def _transport(sample: Sample, segment: bytes) -> None:
    if sample.protocol in _WITH_PORTS and len(segment) >= 4:
        sample.source_port, sample.destination_port = struct.unpack_from("!HH", segment)
        if sample.protocol == _TCP and len(segment) >= 14:
            sample.tcp_flags = segment[13]
    elif sample.protocol in _ICMP and len(segment) >= 2:
        sample.icmp_type_code = segment[0] << 8 | segment[1]


def _numbers(values: Sequence[int]) -> Numbers:
    return Numbers(np.array(values, np.uint64))


def _optional(values: Sequence[int | None]) -> Numbers:
    return Numbers(
        np.array([value or 0 for value in values], np.uint64),
        np.array([value is not None for value in values], np.bool_),
    )


def _texts(texts: Sequence[bytes]) -> Texts:
    cells = np.frombuffer(b"".join(text.ljust(16, b"\0") for text in texts), np.uint8)
    return Texts(cells.reshape(len(texts), 16), np.array([len(text) for text in texts], np.int64))
