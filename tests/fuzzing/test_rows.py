"""Whatever bytes come for records: columns, rows, and what protobuf's own parser reads agree."""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from services.writer.decoding import decode
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.consume.columns import to_arrow
from tests.consume.test_columns import build, columns_to_plain, contract, payload_class, plain
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, run, shares
from tests.support.batches import INVENTORY
from tests.support.deliveries import Log

INNER = {"text": "t", "number": -1, "seen_time": {"seconds": 1, "nanos": 2}, "color": 1, "totals": [1, 2]}
RECORD = {
    "time": {"seconds": 1_700_000_000, "nanos": 1_000},
    "name": "n",
    "a_int32": -1,
    "a_uint64": 1 << 63,
    "a_sint64": -5,
    "a_fixed64": 9,
    "a_double": 0.5,
    "a_bool": True,
    "a_bytes": b"\x00",
    "a_color": 7,
    "maybe_string": "",
    "wait": {"seconds": -3, "nanos": -5},
    "boxed": {"value": 4},
    "inner": INNER,
    "inners": [INNER],
    "colors": [0, 99],
    "doubles": [1.0],
    "counts": {"a": 1},
    "by_number": {3: INNER},
}


def everything() -> list[bytes]:
    return [
        build({"records": [RECORD, {}], "removed": [{"name": "gone"}]}).SerializeToString(),
        build({"records": [], "removed": []}).SerializeToString(),
    ]


def columns(data: bytes) -> bool:
    """Columns hold what protobuf reads. What it cannot read never gets past a domain's door.

    What is written in another way than protobuf writes it, such as a field that comes twice, may be read in
    two ways: only its own source can sign such.
    """
    found = to_arrow(contract(), [data])
    try:
        message: Any = payload_class().FromString(data)
    except DecodeError:
        return False
    assert found.count(0) == len(message.records) + len(message.removed)
    message.DiscardUnknownFields()
    if message.SerializeToString() != data or any(map(mixed, message.records)):
        return False
    try:
        read = [plain(record) for record in message.records]
    except OverflowError:
        # A time inside of a field lies in no calendar: rows are not made of it.
        return False
    assert repr(columns_to_plain(found.records)) == repr(read)
    return True


def mixed(record: Any) -> bool:
    """Whether a time or a duration is none: parts of two signs, nanoseconds of a second and more."""
    moments = (record.time, record.wait)
    return record.wait.seconds * record.wait.nanos < 0 or any(abs(one.nanos) >= 10**9 for one in moments)


def payloads() -> list[bytes]:
    return [batch.payload for batch in world.batches(INVENTORY) if batch.payload]


def rows(data: bytes) -> bool:
    """The rows of a batch are as many as it says, and SQLite takes them; or it is refused by itself."""
    log = Log()
    good = world.batches(INVENTORY)[0]
    records = _count(data)
    header = Header.FromString(good.header)
    header.record_count = records
    bad = SealedBatch(header=header.SerializeToString(), payload=data)
    first, second = decode([log.deliver(good), log.deliver(bad)], lambda _: False)
    assert first.refused is None and len(first.records) == 1
    if second.refused is not None:
        return False
    assert len(second.records) + len(second.removed) == records
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for row in (*second.records, *second.removed):
            connection.execute(f"SELECT {', '.join('?' * len(row))}", row).fetchall()
    return True


def _count(data: bytes) -> int:
    try:
        message: Any = world.records_class(INVENTORY).FromString(data)
    except DecodeError:
        return 1
    return len(message.records) + len(message.removed)


@shares(
    Target("columns", 60_000, everything, columns, refusals=(ValueError,)),
    Target("rows", 40_000, payloads, rows),
)
def test_records_are_what_protobuf_reads_or_are_refused(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    run(share, record_property)
