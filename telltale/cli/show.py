"""What a command prints: records as plain values, tables for people, one JSON document for programs."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from telltale.contract.fields import address_text, enum_name, is_packed_address

Row = dict[str, Any]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# DEL and the second range of controls, and what changes the direction of the text around it.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# One value must not take the time and the screen of all others; JSON has it whole.
_LONGEST_CELL = 10_000
# What stands where the owner of the data shows nothing to this operator.
MASKED = "(masked)"


def row_of(message: Message) -> Row:
    """A message as plain values under its field names; fields that can be absent and are have None.

    Times are ISO 8601 in UTC, durations seconds, enums their names without the prefix, bytes
    hexadecimal.
    """
    row: Row = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            row[field.name] = None
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            row[field.name] = {str(key): plain(field, entry) for key, entry in value.items()}
        elif field.is_repeated:
            row[field.name] = [plain(field, item) for item in value]
        else:
            row[field.name] = plain(field, value)
    return row


def plain(field: Any, value: Any) -> Any:
    """One value of a field as JSON has it."""
    if isinstance(value, Message):
        name = value.DESCRIPTOR.full_name
        # By name, not by class: a product's descriptors come from the gateway and have classes of their own.
        if name == Timestamp.DESCRIPTOR.full_name:
            return iso_of_nanoseconds(value.seconds * 10**9 + value.nanos)  # type: ignore[attr-defined]
        if name == Duration.DESCRIPTOR.full_name:
            return value.seconds + value.nanos / 1e9  # type: ignore[attr-defined]
        return row_of(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    if not isinstance(value, bytes):
        return value
    return address_text(value) if is_packed_address(field) and len(value) in (0, 4, 16) else value.hex()


def replace(value: Any, names: Sequence[str], instead: str | None) -> None:
    """Puts something else in place of a field of a row, in each of its parts where it lies deeper."""
    if isinstance(value, list):
        for part in value:
            replace(part, names, instead)
    elif isinstance(value, dict) and names[0] in value:
        if len(names) == 1:
            value[names[0]] = instead
        else:
            replace(value[names[0]], names[1:], instead)
    elif isinstance(value, dict):
        # A map: what is named lies in each of its values.
        for part in value.values():
            replace(part, names, instead)


def iso_of_nanoseconds(nanoseconds: int) -> str:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso(moment: Timestamp) -> str:
    return iso_of_nanoseconds(moment.ToNanoseconds())


def document(content: Any) -> None:
    """Prints one JSON document."""
    sys.stdout.write(_json(content, indent=2) + "\n")


def line(content: Any) -> None:
    """Prints one JSON object on one line, at once: for what never ends."""
    sys.stdout.write(_json(content) + "\n")
    sys.stdout.flush()


def _json(content: Any, indent: int | None = None) -> str:
    """JSON that is safe to look at: what it leaves unescaped may still drive a terminal, such as U+009B."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Prints rows for people, or one sentence when there is none."""
    lines = list(rows)
    if not lines:
        sys.stdout.write(f"{empty}\n")
        return
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(cells[index], int | float) for cells in lines)
        made.add_column(Text(cell(column)), justify="right" if numeric else "left", overflow="fold")
    for cells in lines:
        made.add_row(*(Text(cell(value)) for value in cells))
    draw(made)


def mapping(content: Mapping[str, Any]) -> None:
    """Prints names and values, one a line."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in content.items():
        made.add_row(name, Text(cell(value)))
    draw(made)


def draw(made: Table) -> None:
    """Prints a table; a file or a pipe gets long lines instead of folded ones, and none ends in spaces."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 4000)
    with console.capture() as captured:
        console.print(made)
    sys.stdout.write("".join(f"{text.rstrip()}\n" for text in captured.get().splitlines()))


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return printable(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def printable(text: str) -> str:
    """Text without control characters: what a host reports must not drive the reader's terminal."""
    if len(text) > _LONGEST_CELL:
        text = f"{text[:_LONGEST_CELL]}... ({len(text):,} characters)"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def size(count: float | None) -> str:
    """Bytes for people: `12.3 MiB`."""
    if count is None:
        return "-"
    for unit in _UNITS:
        if abs(count) < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def age(seconds: float | None) -> str:
    """A span for people, in its largest unit: `0.4s`, `12s`, `5m`, `3h`, `2d`."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    for limit, unit, length in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
