from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from telltale.api.network.v1.flows_pb2 import FlowsFrame, FlowsRecord
from telltale.consume.columns import to_arrow
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import message_class
from tests.support.compiling import compile_product
from tests.support.datagrams import FLOWS

SHAPES = Path(__file__).parent / "shapes.proto"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@cache
def contract() -> Contract:
    with TemporaryDirectory() as directory:
        image = compile_product(Path(directory), "shapes", "everything.proto", SHAPES.read_text())
    return contracts_in(image)[0]


def payload_class() -> type[Any]:
    return message_class(contract().records)


def ints(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)


TEXT = st.text(max_size=8)
BYTES = st.binary(max_size=8)
COLOR = st.sampled_from([0, 1, 7, 99, -1])
TIME = st.fixed_dictionaries(
    {"seconds": st.integers(-62_135_596_800, 253_402_300_799), "nanos": st.integers(0, 999_999_999)}
)
WAIT = st.integers(-(10**9), 10**9).flatmap(
    lambda seconds: st.fixed_dictionaries(
        {
            "seconds": st.just(seconds),
            "nanos": st.integers(0, 999_999_999) if seconds >= 0 else st.integers(-999_999_999, 0),
        }
    )
)
INNER = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXT,
        "number": ints(32, signed=True),
        "seen_time": TIME,
        "color": COLOR,
        "totals": st.lists(ints(64, signed=False), max_size=3),
        "raw": BYTES,
    },
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "time": TIME,
        "name": TEXT,
        "a_int32": ints(32, signed=True),
        "a_int64": ints(64, signed=True),
        "a_uint32": ints(32, signed=False),
        "a_uint64": ints(64, signed=False),
        "a_sint32": ints(32, signed=True),
        "a_sint64": ints(64, signed=True),
        "a_fixed32": ints(32, signed=False),
        "a_fixed64": ints(64, signed=False),
        "a_sfixed32": ints(32, signed=True),
        "a_sfixed64": ints(64, signed=True),
        "a_float": st.floats(width=32, allow_nan=False),
        "a_double": st.floats(allow_nan=False),
        "a_bool": st.booleans(),
        "a_bytes": BYTES,
        "a_color": COLOR,
        "maybe_string": TEXT,
        "maybe_uint64": ints(64, signed=False),
        "maybe_bool": st.booleans(),
        "maybe_double": st.floats(allow_nan=False),
        "maybe_color": COLOR,
        "maybe_bytes": BYTES,
        "wait": WAIT,
        "boxed": st.fixed_dictionaries({"value": ints(64, signed=True)}),
        "inner": INNER,
        "inners": st.lists(INNER, max_size=3),
        "colors": st.lists(COLOR, max_size=3),
        "doubles": st.lists(st.floats(allow_nan=False), max_size=3),
        "counts": st.dictionaries(TEXT, ints(64, signed=True), max_size=3),
        "by_number": st.dictionaries(ints(32, signed=True), INNER, max_size=2),
        "times": st.lists(TIME, max_size=2),
        "left": TEXT,
    },
)
PAYLOAD = st.fixed_dictionaries(
    {"records": st.lists(RECORD, max_size=4), "removed": st.lists(RECORD, max_size=2)}
)


def build(payload: dict[str, Any]) -> Message:
    made = payload_class()()
    for name in ("records", "removed"):
        for values in payload[name]:
            record = getattr(made, name).add()
            for field, value in values.items():
                if field == "by_number":
                    for number, inner in value.items():
                        record.by_number[number].CopyFrom(type(record.inner)(**inner))
                else:
                    type(record)(**{field: value})
                    record.MergeFrom(type(record)(**{field: value}))
    return made


def plain_time(time: Any) -> datetime:
    return EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1_000)


def plain_inner(inner: Any) -> dict[str, Any]:
    return {
        "text": inner.text,
        "number": inner.number if inner.HasField("number") else None,
        "seen_time": plain_time(inner.seen_time) if inner.HasField("seen_time") else None,
        "color": inner.color,
        "totals": list(inner.totals),
        "raw": inner.raw,
    }


def plain_color(color: int) -> str | None:
    return {0: None, 1: "RED", 7: "DEEP_BLUE"}.get(color, str(color))


def plain(record: Any) -> dict[str, Any]:
    """A record as its columns should have it, by protobuf's own accessors."""
    values: dict[str, Any] = {}
    for field in record.DESCRIPTOR.fields:
        name = field.name
        value = getattr(record, name)
        absent = field.has_presence and not record.HasField(name)
        match name:
            case _ if absent:
                values[name] = None
            case "time":
                values[name] = plain_time(value)
            case "wait":
                # Toward zero, as every duration of protobuf is signed in both its parts.
                micros = abs(value.seconds * 10**9 + value.nanos) // 1_000
                values[name] = timedelta(
                    microseconds=micros if value.seconds >= 0 and value.nanos >= 0 else -micros
                )
            case "boxed":
                values[name] = value.value
            case "inner":
                values[name] = plain_inner(value)
            case "inners":
                values[name] = [plain_inner(inner) for inner in value]
            case "times":
                values[name] = [plain_time(time) for time in value]
            case "counts":
                values[name] = dict(value)
            case "by_number":
                values[name] = {number: plain_inner(inner) for number, inner in value.items()}
            case "a_color" | "maybe_color":
                values[name] = plain_color(value)
            case "colors" | "doubles":
                values[name] = list(value)
            case _:
                values[name] = value
    return values


def columns_to_plain(batch: Any) -> list[dict[str, Any]]:
    rows = batch.to_pylist()
    for row in rows:
        for name in ("counts", "by_number"):
            row[name] = dict(row[name])
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(PAYLOAD, max_size=3))
def test_columns_hold_what_protobufs_own_parser_reads(payloads: list[dict[str, Any]]) -> None:
    messages: list[Any] = [build(payload) for payload in payloads]
    columns = to_arrow(contract(), [message.SerializeToString() for message in messages])
    expected = [plain(record) for message in messages for record in message.records]
    assert columns_to_plain(columns.records) == expected
    assert columns_to_plain(columns.removed) == [plain(r) for message in messages for r in message.removed]
    assert columns.record_counts == tuple(len(message.records) for message in messages)
    assert columns.removed_counts == tuple(len(message.removed) for message in messages)


@settings(max_examples=300, deadline=None)
@given(PAYLOAD, st.data())
def test_damaged_payloads_are_a_value_error_or_what_protobuf_makes_of_them(
    payload: dict[str, Any], data: st.DataObject
) -> None:
    damaged = bytearray(build(payload).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["cut", "insert", "change"])):
            case "cut":
                del damaged[place:]
            case "insert":
                damaged.insert(place, data.draw(st.integers(0, 255)))
            case "change" if place < len(damaged):
                damaged[place] = data.draw(st.integers(0, 255))
    try:
        parsed: Any = payload_class().FromString(bytes(damaged))
    except DecodeError:
        parsed = None
    try:
        columns = to_arrow(contract(), [bytes(damaged)])
    except ValueError:
        return
    if parsed is not None:
        assert columns.count(0) == len(parsed.records) + len(parsed.removed)


def test_truncated_input_is_a_value_error() -> None:
    payload = build({"records": [{"name": "x" * 50}], "removed": []}).SerializeToString()
    with pytest.raises(ValueError, match=r"EverythingFrame\.Records"):
        to_arrow(contract(), [payload[:-1]])


def test_what_ptars_breaks_on_is_read_by_protobuf() -> None:
    # A map entry without its value is valid, and ptars panics on it.
    record = b"\xf2\x01\x03\x0a\x01k"
    columns = to_arrow(contract(), [b"\x0a" + bytes([len(record)]) + record])
    assert columns.records.column("counts").to_pylist() == [[("k", 0)]]


def test_a_time_that_no_calendar_has_is_a_value_error() -> None:
    late = build({"records": [{"time": {"seconds": 1 << 60}}], "removed": []}).SerializeToString()
    with pytest.raises(ValueError, match="time"):
        to_arrow(contract(), [late])


def test_a_duration_that_is_longer_than_any_is_a_value_error() -> None:
    for seconds in (1 << 60, -(1 << 60)):
        long = build({"records": [{"wait": {"seconds": seconds, "nanos": 0}}], "removed": []})
        with pytest.raises(ValueError, match="wait holds a duration"):
            to_arrow(contract(), [long.SerializeToString()])


def test_more_payloads_than_one_call_takes_keep_their_order() -> None:
    names = [f"{number}-{'x' * 200_000}" for number in range(12)]
    payloads = [build({"records": [{"name": name}], "removed": []}).SerializeToString() for name in names]
    columns = to_arrow(contract(), payloads)
    assert columns.records.column("name").to_pylist() == names
    assert columns.record_counts == (1,) * 12


def test_no_payloads_make_no_rows() -> None:
    assert to_arrow(contract(), []).records.num_rows == 0


def test_moments_are_in_utc() -> None:
    moment = datetime(2026, 3, 4, tzinfo=UTC)
    payload = build({"records": [{"time": {"seconds": int(moment.timestamp())}}], "removed": []})
    (row,) = to_arrow(contract(), [payload.SerializeToString()]).records.to_pylist()
    assert row["time"].replace(tzinfo=UTC) == moment


def test_packed_addresses_are_text_and_others_are_refused() -> None:
    made = [
        FlowsRecord(source_address=ip_address(text).packed, destination_address=b"")
        for text in ("192.0.2.1", "2001:db8::1", "192.0.2.1")
    ]
    payload = FlowsFrame.Records(records=made).SerializeToString()
    records = to_arrow(FLOWS, [payload]).records
    assert records.column("source_address").to_pylist() == ["192.0.2.1", "2001:db8::1", "192.0.2.1"]
    # None was told: not to be taken for absent, nor for 0.0.0.0.
    assert records.column("destination_address").to_pylist() == ["", "", ""]
    assert records.column("next_hop_address").to_pylist() == [None, None, None]
    wrong = FlowsFrame.Records(records=[FlowsRecord(source_address=b"12345")]).SerializeToString()
    with pytest.raises(ValueError, match="source_address holds an address that is neither of 4 nor of 16"):
        to_arrow(FLOWS, [wrong])
