"""What a real exporter sends is read field by field as a real collector, nfdump, reads the same datagrams."""

import time
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from telltale.api.network.v1.flows_pb2 import FlowsRecord
from tests.support.datagrams import ALLOWED, datagram, decoder, records
from tests.support.exporters import exported, nfdumped, packets, write_pcap

_FLAGS = "CEUAPRSF"


def ours(record: FlowsRecord) -> tuple[Any, ...]:
    return (
        record.start_time.ToMilliseconds(),
        record.time.ToMilliseconds(),
        str(ip_address(record.source_address)),
        str(ip_address(record.destination_address)),
        record.source_port,
        record.icmp_type_code if record.protocol == 1 else record.destination_port,
        record.protocol,
        record.tcp_flags,
        record.total_packets,
        record.total_bytes,
        record.type_of_service,
    )


def theirs(record: dict[str, Any]) -> tuple[Any, ...]:
    icmp = record["proto"] == 1
    flags = (
        0 if record["proto"] != 6 else int("".join("01"[letter != "."] for letter in record["tcp_flags"]), 2)
    )
    # nfdump 1.7.1 takes the two uptimes of IPFIX for each other.
    first, last = sorted(milliseconds(record[name]) for name in ("first", "last"))
    return (
        first,
        last,
        record.get("src4_addr") or record.get("src6_addr"),
        record.get("dst4_addr") or record.get("dst6_addr"),
        record["src_port"] if not icmp else 0,
        record["icmp_type"] << 8 | record["icmp_code"] if icmp else record["dst_port"],
        record["proto"],
        flags,
        record["in_packets"],
        record["in_bytes"],
        record["src_tos"],
    )


def milliseconds(text: str) -> int:
    # nfdump prints the time of this machine's zone.
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1_000)


@pytest.mark.parametrize("version", [5, 9, 10], ids=["v5", "v9", "ipfix"])
def test_flows_of_softflowd_are_read_as_nfdump_reads_them(version: int, tmp_path: Path) -> None:
    write_pcap(tmp_path / "packets.pcap", packets(), time.time() - 60)
    datagrams = exported("packets.pcap", version, tmp_path)
    decoded = decoder().decode([datagram(data, at=time.time()) for data in datagrams], ALLOWED)
    assert not decoded.losses
    mine = sorted(ours(record) for record in records(decoded))
    # Twenty hosts: TCP both ways, DNS and ping, and QUIC over IPv6, which version 5 cannot tell.
    assert len(mine) == 20 * (4 if version == 5 else 5)
    assert mine == sorted(theirs(record) for record in nfdumped(datagrams, tmp_path))
