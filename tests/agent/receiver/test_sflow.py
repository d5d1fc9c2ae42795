"""sFlow v5: each sampled packet is a flow of one packet, as far as its head was sampled."""

import struct

import pytest

from tests.support.datagrams import (
    EXPORTED,
    decoder,
    flow_record,
    flow_sample,
    flows,
    packed,
    raw_header,
    sflow,
    turn,
)

ETHERNET = bytes(12)


def ipv4(payload: bytes, protocol: int, *, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0x10, 20 + len(payload), 1, fragment, 64, protocol, 0)
    return head + packed("192.0.2.10") + packed("198.51.100.7") + payload


def tcp(flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40_000, 443, 1, 1, 0x50, flags, 0, 0, 0)


def test_a_sampled_frame_has_addresses_ports_flags_and_vlan() -> None:
    frame = ETHERNET + struct.pack("!HHH", 0x8100, 0x2005, 0x0800) + ipv4(tcp(0x12), 6)
    gateway = flow_record(
        1003,
        struct.pack("!I4sIIIIIIII", 1, packed("192.0.2.1"), 64_500, 64_501, 64_501, 1, 2, 2, 64_502, 64_503)
        + struct.pack("!II", 0, 0),
    )
    router = flow_record(1002, struct.pack("!I4sII", 1, packed("192.0.2.254"), 24, 24))
    (record,) = flows(sflow(flow_sample(raw_header(frame, 1_500), gateway, router)))
    assert (record.source_address, record.destination_address) == (
        packed("192.0.2.10"),
        packed("198.51.100.7"),
    )
    assert (record.source_port, record.destination_port, record.protocol) == (40_000, 443, 6)
    assert (record.tcp_flags, record.type_of_service, record.vlan) == (0x12, 0x10, 5)
    assert (record.input_interface, record.output_interface) == (5, 6)
    assert (record.source_as, record.destination_as) == (64_501, 64_503)
    assert record.next_hop_address == packed("192.0.2.254")
    # One packet stands for as many as the rate says.
    assert (record.total_packets, record.total_bytes) == (512, 1_500 * 512)
    assert record.sampling_rate == 512 and record.scaled
    assert record.observation_domain == 3
    # sFlow tells no time: it is that of the receiver.
    assert record.time.ToSeconds() == EXPORTED


def test_ipv6_with_headers_between_is_read_to_its_ports() -> None:
    hop_by_hop = bytes([17, 0]) + bytes(6)
    udp = struct.pack("!HHHH", 53, 5_353, 8, 0)
    packet = struct.pack("!IHBB", 6 << 28 | 0x28 << 20, 16, 0, 64)
    packet += packed("2001:db8::1") + packed("2001:db8::2") + hop_by_hop + udp
    (record,) = flows(sflow(flow_sample(raw_header(ETHERNET + b"\x86\xdd" + packet, 100))))
    assert (record.source_address, record.destination_address) == (
        packed("2001:db8::1"),
        packed("2001:db8::2"),
    )
    assert (record.source_port, record.destination_port, record.protocol) == (53, 5_353, 17)
    assert record.type_of_service == 0x28 and not record.HasField("tcp_flags")


def test_icmp_has_a_type_and_a_code_and_a_later_fragment_no_ports() -> None:
    ping, later = ipv4(b"\x08\x00" + bytes(6), 1), ipv4(tcp(2), 6, fragment=100)
    found = flows(sflow(*(flow_sample(raw_header(ETHERNET + b"\x08\0" + one, 100)) for one in (ping, later))))
    assert (found[0].icmp_type_code, found[0].destination_port) == (0x0800, 0)
    assert (found[1].source_port, found[1].HasField("tcp_flags")) == (0, False)


def test_a_sample_that_tells_addresses_instead_of_a_head_is_read_too() -> None:
    told = struct.pack("!II4s4sIIII", 700, 6, packed("192.0.2.10"), packed("198.51.100.7"), 1, 2, 0x02, 0)
    (record,) = flows(sflow(flow_sample(flow_record(3, told), rate=1)))
    assert (record.total_bytes, record.source_port, record.tcp_flags) == (700, 1, 2)
    assert not record.scaled


def test_expanded_samples_are_read_and_samples_of_counters_are_left_out() -> None:
    frame = raw_header(ETHERNET + b"\x08\0" + ipv4(tcp(2), 6), 60)
    body = struct.pack("!IIIIIIIIIII", 1, 0, 5, 8, 1, 0, 0, 70_000, 0, 70_001, 1) + frame
    expanded = struct.pack("!II", 3, len(body)) + body
    counters = struct.pack("!II", 2, 8) + bytes(8)
    (record,) = flows(sflow(counters, expanded))
    assert (record.input_interface, record.output_interface) == (70_000, 70_001)


@pytest.mark.parametrize("size", range(0, 180, 3))
def test_a_datagram_that_was_cut_off_is_counted_and_what_was_whole_before_is_kept(size: int) -> None:
    whole = sflow(*(flow_sample(raw_header(ETHERNET + b"\x08\0" + ipv4(tcp(2), 6), 60)) for _ in range(2)))
    made = decoder()
    decoded = turn(made, whole[:size])
    assert decoded.records == (size >= 28 + 8 + 32 + 8 + 16 + 56)
    assert sum(exporter.counters.malformed for exporter in made.table) == 1


def test_a_packet_whose_head_was_cut_off_anywhere_is_still_a_flow() -> None:
    frame = ETHERNET + b"\x08\0" + ipv4(tcp(2), 6)
    for size in range(len(frame)):
        (record,) = flows(sflow(flow_sample(raw_header(frame[:size], 60))))
        assert record.total_packets == 512
