"""Payloads to Arrow columns: the one place that knows ptars.

ptars is fast and young. What it refuses or breaks on is decided by protobuf's own parser: a payload that
protobuf reads is written again in its canonical form and decoded once more; any other is a ValueError.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from ptars import HandlerPool, PtarsConfig

from telltale.contract.fields import address_text, enum_name, is_packed_address
from telltale.contract.product import Contract
from telltale.contract.shape import is_repeated

# ptars holds the interpreter's lock while it decodes: about 10,000 records of 100 bytes take 2 ms.
_BYTES_A_CALL = 1 << 20
# Versions of all products that a process decodes at a time.
_DECODERS = 1_024

# Microseconds hold every time that protobuf calls valid, nanoseconds only those from 1677 to 2262.
_CONFIG = PtarsConfig(timestamp_tz=None, timestamp_unit="us", duration_unit="us")
_FIRST_TIME = -62_135_596_800_000_000
_LAST_TIME = 253_402_300_799_999_999
# Those of a Duration; ptars makes one that is longer as long as fits.
_LONGEST_WAIT = 315_576_000_000_000_000


@dataclass(frozen=True)
class Columns:
    """Records of several payloads, in their order, and how many each payload holds.

    One column a field, named as in the proto: scalars and their wrappers as themselves, absent is null;
    Timestamp as timestamp[us] in UTC; Duration as duration[us]; a packed address as its text; an enum as its
    value's name without the enum's prefix, null when unspecified; other messages, lists, maps as Arrow's own.
    """

    records: pa.RecordBatch
    # Of the same schema; only key fields are filled. Always empty unless the product is an inventory.
    removed: pa.RecordBatch
    record_counts: tuple[int, ...]
    removed_counts: tuple[int, ...]

    def count(self, payload: int) -> int:
        """Records and removals of one payload: what its header's record_count must be."""
        return self.record_counts[payload] + self.removed_counts[payload]


def to_arrow(contract: Contract, payloads: Sequence[bytes]) -> Columns:
    """Decodes payloads of one version of a product; raises ValueError when one of them is no such payload."""
    decoder = _decoder(contract)
    parts = [decoder.decode(chunk) for chunk in _chunks(payloads)] or [decoder.decode([])]
    if len(parts) == 1:
        return parts[0]
    return Columns(
        pa.concat_batches([part.records for part in parts]),
        pa.concat_batches([part.removed for part in parts]),
        tuple(count for part in parts for count in part.record_counts),
        tuple(count for part in parts for count in part.removed_counts),
    )


def _chunks(payloads: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    first, size = 0, 0
    for index, payload in enumerate(payloads):
        if size and size + len(payload) > _BYTES_A_CALL:
            yield payloads[first:index]
            first, size = index, 0
        size += len(payload)
    if first < len(payloads):
        yield payloads[first:]


class _Decoder:
    """Decodes the payloads of one version of a product."""

    def __init__(self, contract: Contract) -> None:
        self._records = contract.records
        self._record = contract.record
        self._handler = HandlerPool([contract.records.file], _CONFIG).get_for_message(contract.records)
        self._enums = _enums(contract.record)
        self._addresses = {field.name for field in contract.record.fields if is_packed_address(field)}

    def decode(self, payloads: Sequence[bytes]) -> Columns:
        try:
            batch = self._call(payloads)
        except ValueError:
            batch = self._call([self._canonical(payload) for payload in payloads])
        records, record_counts = self._field(batch, "records")
        if "removed" not in batch.schema.names:
            return Columns(records, records.slice(0, 0), record_counts, (0,) * len(payloads))
        removed, removed_counts = self._field(batch, "removed")
        return Columns(records, removed, record_counts, removed_counts)

    def _call(self, payloads: Sequence[bytes]) -> pa.RecordBatch:
        try:
            batch = self._handler.list_to_record_batch(list(payloads))
        except ValueError:
            raise
        except BaseException as failed:
            # A Rust panic is no Exception in Python; everything else that is none must go on its way.
            if type(failed).__name__ != "PanicException":
                raise
            raise ValueError(f"ptars broke on {self._records.full_name}") from None
        if batch.num_rows != len(payloads):
            raise ValueError(f"ptars made {batch.num_rows} rows of {len(payloads)} payloads")
        return batch

    def _canonical(self, payload: bytes) -> bytes:
        try:
            message = GetMessageClass(self._records).FromString(payload)
        except DecodeError as broken:
            raise ValueError(f"a payload is no {self._records.full_name}: {broken}") from None
        message.DiscardUnknownFields()
        return message.SerializeToString()

    def _field(self, batch: pa.RecordBatch, name: str) -> tuple[pa.RecordBatch, tuple[int, ...]]:
        lists = batch.column(batch.schema.names.index(name))
        # Not `.values`: that would ignore the offset of a sliced array.
        flat = pa.RecordBatch.from_struct_array(lists.flatten())
        counts = tuple(lists.value_lengths().to_pylist())
        if sum(counts) != flat.num_rows:
            raise ValueError(f"ptars made {flat.num_rows} records where the lists say {sum(counts)}")
        return self._named(flat), counts

    def _named(self, flat: pa.RecordBatch) -> pa.RecordBatch:
        columns: list[Any] = []
        for field, column in zip(flat.schema, flat.columns, strict=True):
            if pa.types.is_timestamp(field.type):
                _check(field.name, column, _FIRST_TIME, _LAST_TIME, "a time outside the years 1 to 9999")
            elif pa.types.is_duration(field.type):
                _check(field.name, column, -_LONGEST_WAIT, _LONGEST_WAIT, "a duration of over 10,000 years")
            elif field.name in self._addresses:
                column = _address_texts(field.name, column)
            names = self._enums.get(field.name)
            columns.append(column if names is None else names.of(column))
        return pa.RecordBatch.from_arrays(columns, names=flat.schema.names)


class _Names:
    """Names of an enum's values, looked up by column."""

    def __init__(self, enum: EnumDescriptor) -> None:
        numbers = sorted(enum.values_by_number)
        self._numbers = pa.array(numbers, pa.int32())
        self._names = pa.array([enum_name(enum, number) for number in numbers], pa.string())

    def of(self, column: Any) -> Any:
        places = pc.index_in(column, value_set=self._numbers)
        if places.null_count == column.null_count:
            return self._names.take(places)
        unknown = pc.and_(pc.is_null(places), pc.is_valid(column))
        return pc.if_else(unknown, column.cast(pa.string()), self._names.take(places))


def _enums(record: Descriptor) -> dict[str, _Names]:
    return {
        field.name: _Names(field.enum_type)
        for field in record.fields
        if field.enum_type is not None and not is_repeated(field)
    }


def _address_texts(name: str, column: Any) -> Any:
    """Addresses of 4 or 16 bytes as text. Each is written once, however many records have it."""
    encoded = column.dictionary_encode()
    try:
        texts = [address_text(packed) for packed in encoded.dictionary.to_pylist()]
    except ValueError:
        raise ValueError(f"{name} holds an address that is neither of 4 nor of 16 bytes") from None
    return pa.array(texts, pa.string()).take(encoded.indices)


def _check(name: str, column: Any, least: int, most: int, what: str) -> None:
    bounds = pc.min_max(column.cast(pa.int64()))
    first, last = bounds["min"].as_py(), bounds["max"].as_py()
    if first is not None and (first < least or last > most):
        raise ValueError(f"{name} holds {what}")


@lru_cache(maxsize=_DECODERS)
def _decoder(contract: Contract) -> _Decoder:
    # A contract compares by identity and belongs to one schema, which its holders share by digest.
    return _Decoder(contract)
