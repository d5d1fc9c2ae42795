"""What numpy writes is what protobuf writes, byte for byte, whatever the columns hold."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.receiver.encoding import Columns, Numbers, RecordEncoder, Texts, Times
from agent.receiver.flows.parts import parts
from telltale.api.network.v1.flows_pb2 import FlowsFrame, FlowsRecord
from telltale.source.source import BATCH_BYTES, BATCH_RECORDS
from tests.support.datagrams import FLOWS

ENCODER = RecordEncoder(FLOWS.record, FLOWS.time_field)
UINT32, UINT64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
# Up to the year 2262, where nanoseconds in 64 bits end.
MOMENT = st.integers(0, 9_200_000_000 * 10**9)


@st.composite
def flow(draw: st.DrawFn) -> dict[str, Any]:
    """Values of a record's fields, None where it has none."""
    return {
        "time": draw(MOMENT),
        "start_time": draw(st.none() | MOMENT),
        "source_address": draw(st.sampled_from([b"", b"\0\0\0\0", b"\x7f\0\0\1", bytes(range(16))])),
        "source_port": draw(UINT32),
        "total_bytes": draw(UINT64),
        "reverse_bytes": draw(st.none() | UINT64),
        "tcp_flags": draw(st.none() | UINT32),
        "format": draw(st.integers(0, 5)),
    }


def columns(told: list[dict[str, Any]]) -> Columns:
    """The same values, column by column."""

    def numbers(name: str) -> Numbers:
        values = [one[name] for one in told]
        return Numbers(
            np.array([value or 0 for value in values], np.uint64),
            np.array([value is not None for value in values], np.bool_),
        )

    def times(name: str) -> Times:
        given = numbers(name)
        return Times(given.values.astype(np.int64), given.present)

    addresses = [one["source_address"] for one in told]
    cells = np.frombuffer(b"".join(one.ljust(16, b"\0") for one in addresses), np.uint8).reshape(-1, 16)
    lengths = np.array([len(one) for one in addresses], np.int64)
    names = ("source_port", "total_bytes", "reverse_bytes", "tcp_flags", "format")
    return Columns(
        len(told),
        {
            "time": Times(np.array([one["time"] for one in told], np.int64)),
            "start_time": times("start_time"),
            "source_address": Texts(cells, lengths),
            **{name: numbers(name) for name in names},
        },
    )


def message(told: dict[str, Any]) -> FlowsRecord:
    record = FlowsRecord(**{name: value for name, value in told.items() if not name.endswith("time")})
    record.time.FromNanoseconds(told["time"])
    if told["start_time"] is not None:
        record.start_time.FromNanoseconds(told["start_time"])
    return record


@given(st.lists(flow(), min_size=1, max_size=20))
def test_columns_are_encoded_as_protobuf_encodes_the_same_records(told: list[dict[str, Any]]) -> None:
    (encoded,) = ENCODER.encode(columns(told))
    assert encoded.payload == FlowsFrame.Records(records=map(message, told)).SerializeToString()
    assert encoded.times.tolist() == [one["time"] for one in told]
    # Each record ends where it says.
    starts = [0, *encoded.ends.tolist()]
    for start, end, one in zip(starts, starts[1:], told, strict=False):
        part = FlowsFrame.Records.FromString(encoded.payload[start:end])
        assert list(part.records) == [message(one)]


@pytest.mark.parametrize("count", [1, BATCH_RECORDS, BATCH_RECORDS + 1, 20_001])
def test_parts_keep_every_record_within_the_bounds_of_a_batch(count: int) -> None:
    moments = np.arange(count, dtype=np.int64) * 10**9 + 10**18
    made = Columns(count, {"time": Times(moments), "source_port": Numbers(np.arange(count, dtype=np.uint64))})
    cut = list(parts(ENCODER.encode(made)))
    ports = []
    for part in cut:
        read = FlowsFrame.Records.FromString(part.payload).records
        assert len(read) == part.records <= BATCH_RECORDS and len(part.payload) <= BATCH_BYTES
        assert (part.first, part.last) == (read[0].time, read[-1].time)
        ports += [record.source_port for record in read]
    assert ports == list(range(count))


def test_small_pieces_share_a_batch() -> None:
    one = Columns(3, {"time": Times(np.full(3, 10**18, np.int64))})
    (part,) = parts(encoded for _ in range(10) for encoded in ENCODER.encode(one))
    assert part.records == 30
