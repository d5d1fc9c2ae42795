"""Datagrams of NetFlow v5 and v9, IPFIX and sFlow v5, made by hand; and what a decoder makes of them."""

import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from agent.receiver.flows.decoder import Datagram, Decoded, FlowDecoder
from agent.receiver.flows.table import Allowlist, ExporterTable
from telltale.api.network.v1.flows_pb2 import FlowsFrame, FlowsRecord
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in

# 2026-11-01 00:00:00 UTC, and the uptime of the device then.
EXPORTED = 1_793_491_200
UPTIME_MS = 600_000
EXPORTER = "192.0.2.1"
FLOWS, EXPORTERS = (
    next(contract for contract in contracts_in(own_image("network")) if contract.name == name)
    for name in ("network.flows", "network.exporters")
)
# Everybody in the network of documentation.
ALLOWED = Allowlist([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])

# A field of a template: number and length, or enterprise, number and length.
Field = tuple[int, int] | tuple[int, int, int]
VARIABLE = 0xFFFF
FIVE_TUPLE: tuple[Field, ...] = ((8, 4), (12, 4), (7, 2), (11, 2), (4, 1))


def five_tuple(
    source: str, destination: str, ports: tuple[int, int] = (1000, 80), protocol: int = 6
) -> bytes:
    """A record of FIVE_TUPLE."""
    return packed(source) + packed(destination) + struct.pack("!HHB", *ports, protocol)


def packed(address: str) -> bytes:
    return ip_address(address).packed


def v5(*records: bytes, sequence: int = 0, sampling: int = 0, seconds: int = EXPORTED) -> bytes:
    head = struct.pack("!HHIIIIBBH", 5, len(records), UPTIME_MS, seconds, 500, sequence, 1, 2, sampling)
    return head + b"".join(records)


def v5_record(**fields: Any) -> bytes:
    told = {
        "source": "192.0.2.10", "destination": "198.51.100.7", "hop": "192.0.2.254", "ways": (3, 4),
        "packets": 10, "bytes": 5_000, "times": (UPTIME_MS - 2_000, UPTIME_MS - 1_000),
        "ports": (40_000, 443), "flags": 0x1B, "protocol": 6, "tos": 0x28,
        "systems": (64_500, 64_501), **fields,
    }  # fmt: skip
    addresses = [packed(told[name]) for name in ("source", "destination", "hop")]
    return struct.pack(
        "!4s4s4sHHIIIIHHBBBBHHBBH",
        *addresses, *told["ways"], told["packets"], told["bytes"], *told["times"], *told["ports"], 0,
        told["flags"], told["protocol"], told["tos"], *told["systems"], 24, 24, 0,
    )  # fmt: skip


def v9(*sets: bytes, sequence: int = 0, domain: int = 7, uptime: int = UPTIME_MS) -> bytes:
    return struct.pack("!HHIIII", 9, len(sets), uptime, EXPORTED, sequence, domain) + b"".join(sets)


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 7) -> bytes:
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body), EXPORTED, sequence, domain) + body


def a_set(number: int, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack("!HH", number, 4 + len(body)) + body


def v9_template(number: int, fields: Iterable[Field]) -> bytes:
    fields = list(fields)
    return a_set(
        0, struct.pack("!HH", number, len(fields)), *(struct.pack("!HH", *field) for field in fields)
    )


def v9_options(number: int, scopes: Sequence[Field], fields: Sequence[Field]) -> bytes:
    head = struct.pack("!HHH", number, 4 * len(scopes), 4 * len(fields))
    return a_set(1, head, *(struct.pack("!HH", *field) for field in (*scopes, *fields)))


def ipfix_field(field: Field) -> bytes:
    if len(field) == 2:
        return struct.pack("!HH", *field)
    enterprise, number, length = field
    return struct.pack("!HHI", number | 0x8000, length, enterprise)


def ipfix_template(number: int, fields: Iterable[Field]) -> bytes:
    fields = list(fields)
    return a_set(2, struct.pack("!HH", number, len(fields)), *map(ipfix_field, fields))


def ipfix_options(number: int, scopes: int, fields: Sequence[Field]) -> bytes:
    return a_set(3, struct.pack("!HHH", number, len(fields), scopes), *map(ipfix_field, fields))


def variable(value: bytes) -> bytes:
    """A value whose length stands before it."""
    return (bytes([len(value)]) if len(value) < 255 else b"\xff" + struct.pack("!H", len(value))) + value


def sflow(*samples: bytes, sequence: int = 0, sub_agent: int = 3) -> bytes:
    head = struct.pack("!II4sIIII", 5, 1, packed("192.0.2.1"), sub_agent, sequence, UPTIME_MS, len(samples))
    return head + b"".join(samples)


def flow_sample(*records: bytes, rate: int = 512, ways: tuple[int, int] = (5, 6)) -> bytes:
    body = struct.pack("!IIIIIIII", 1, 5, rate, 1, 0, *ways, len(records)) + b"".join(records)
    return struct.pack("!II", 1, len(body)) + body


def flow_record(form: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack("!II", form, len(body)) + body


def raw_header(frame: bytes, length: int) -> bytes:
    return flow_record(1, struct.pack("!IIII", 1, length, 4, len(frame)) + frame)


def datagram(data: bytes, host: str = EXPORTER, at: float = float(EXPORTED)) -> Datagram:
    return Datagram(data, host, int(at * 1e9))


def decoder() -> FlowDecoder:
    return FlowDecoder(ExporterTable(), FLOWS)


def turn(
    decoder: FlowDecoder, *datagrams: bytes, host: str = EXPORTER, at: float = float(EXPORTED)
) -> Decoded:
    """One turn of some datagrams of one exporter."""
    return decoder.decode([datagram(data, host, at) for data in datagrams], ALLOWED)


def records(decoded: Decoded) -> list[FlowsRecord]:
    found = [
        record for part in decoded.parts for record in FlowsFrame.Records.FromString(part.payload).records
    ]
    assert len(found) == decoded.records == sum(part.records for part in decoded.parts)
    return found


def flows(*datagrams: bytes) -> list[FlowsRecord]:
    """What a new decoder makes of datagrams."""
    return records(turn(decoder(), *datagrams))
