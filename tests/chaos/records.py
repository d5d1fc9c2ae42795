"""Records of real products that a load source makes, and how the database shows them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageRecord
from telltale.api.servers.v1.process_starts_pb2 import ProcessStartsRecord


@dataclass(frozen=True)
class Made:
    """A record, and its values in the order of `Load.columns`, as the database holds them."""

    record: Message
    values: tuple[object, ...]


@dataclass(frozen=True)
class Load:
    """A product of a load source. The first of `columns` holds the record's number."""

    product: str
    table: str
    columns: tuple[str, ...]
    make: Callable[[random.Random, int], Made]


def _disk_usage(draw: random.Random, number: int) -> Made:
    now = datetime.now(UTC).replace(tzinfo=None)
    total, used = draw.getrandbits(40), draw.getrandbits(39)
    values: tuple[Any, ...] = (number, _text(now), f"/load/{draw.randrange(8)}", total, used, draw.random())
    record = DiskUsageRecord(
        total_inodes=number, mountpoint=values[2], total_bytes=total, used_bytes=used, used_ratio=values[5]
    )
    record.time.FromDatetime(now)
    return Made(record, values)


def _process_start(draw: random.Random, number: int) -> Made:
    now = datetime.now(UTC).replace(tzinfo=None)
    name = draw.choice(("cron", "sshd", "sed", "sort"))
    values = (number, _text(now), draw.getrandbits(22), f"/usr/bin/{name}", f"{draw.getrandbits(64):x}")
    record = ProcessStartsRecord(
        start_ticks=number,
        process_id=values[2],
        executable=values[3],
        process=name,
        working_directory=values[4],
        account="root",
    )
    record.time.FromDatetime(now)
    return Made(record, values)


def _text(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="microseconds")


# One product that a full spool may shed and one that it may not.
LOADS = (
    Load(
        "servers.disk_usage",
        "servers_disk_usage",
        ("total_inodes", "time", "mountpoint", "total_bytes", "used_bytes", "used_ratio"),
        _disk_usage,
    ),
    Load(
        "servers.process_starts",
        "servers_process_starts",
        ("start_ticks", "time", "process_id", "executable", "working_directory"),
        _process_start,
    ),
)
