"""The records of wtmp and btmp (utmp(5)), as the C library of this machine lays them out."""

import enum
import ipaddress
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

# type, process, terminal, id, account, host, exit status, session, seconds, microseconds, address.
COMPACT = struct.Struct("=h2xi32s4s32s256s4xiii16s20x")
# Where no 32-bit programs had to share the file, session and time have 64 bits.
WIDE = struct.Struct("=h2xi32s4s32s256s4xqqq16s20x4x")
RECORD = WIDE if platform.machine() in ("aarch64", "loongarch64") else COMPACT


class Kind(enum.IntEnum):
    """What an entry tells; the other types mean nothing here."""

    RUN_LEVEL = 1
    BOOT_TIME = 2
    LOGIN_PROCESS = 6
    USER_PROCESS = 7
    DEAD_PROCESS = 8


class Entry(NamedTuple):
    """One record. `address` is empty when there is none."""

    kind: int
    process_id: int
    terminal: str
    account: str
    remote_host: str
    address: str
    unix_ns: int


def parse_utmp(data: bytes, layout: struct.Struct = RECORD) -> Iterator[Entry]:
    """Every whole record; what is left at the end is not looked at."""
    for values in layout.iter_unpack(data[: len(data) - len(data) % layout.size]):
        kind, process_id, terminal, _id, account, host, _session, seconds, microseconds, address = values
        # The compact layout's seconds are unsigned in all but name: they would end in 2038.
        if layout is COMPACT:
            seconds &= 0xFFFFFFFF
        yield Entry(
            kind=kind,
            process_id=max(process_id, 0),
            terminal=_text(terminal),
            account=_text(account),
            remote_host=_text(host),
            address=_address(address),
            unix_ns=seconds * 10**9 + microseconds * 1000,
        )


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")


def _address(packed: bytes) -> str:
    """An IPv4 address fills the first word only."""
    if not any(packed):
        return ""
    return str(ipaddress.ip_address(packed if any(packed[4:]) else packed[:4]))
