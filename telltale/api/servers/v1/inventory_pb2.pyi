import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from telltale.api.mesh.v1 import product_pb2 as _product_pb2
from telltale.api.mesh.v1 import stream_pb2 as _stream_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InventoryRecord(_message.Message):
    __slots__ = ("time", "host_name", "host_id", "os_name", "os_version", "kernel_release", "architecture", "cpu_model", "cpu_count", "memory_bytes", "boot_time", "addresses", "agent_version")
    TIME_FIELD_NUMBER: _ClassVar[int]
    HOST_NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    OS_NAME_FIELD_NUMBER: _ClassVar[int]
    OS_VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CPU_MODEL_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    BOOT_TIME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    host_name: str
    host_id: str
    os_name: str
    os_version: str
    kernel_release: str
    architecture: str
    cpu_model: str
    cpu_count: int
    memory_bytes: int
    boot_time: _timestamp_pb2.Timestamp
    addresses: _containers.RepeatedScalarFieldContainer[str]
    agent_version: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., host_name: _Optional[str] = ..., host_id: _Optional[str] = ..., os_name: _Optional[str] = ..., os_version: _Optional[str] = ..., kernel_release: _Optional[str] = ..., architecture: _Optional[str] = ..., cpu_model: _Optional[str] = ..., cpu_count: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., boot_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., addresses: _Optional[_Iterable[str]] = ..., agent_version: _Optional[str] = ...) -> None: ...

class InventoryFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    class Records(_message.Message):
        __slots__ = ("records", "removed")
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        REMOVED_FIELD_NUMBER: _ClassVar[int]
        records: _containers.RepeatedCompositeFieldContainer[InventoryRecord]
        removed: _containers.RepeatedCompositeFieldContainer[InventoryRecord]
        def __init__(self, records: _Optional[_Iterable[_Union[InventoryRecord, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[InventoryRecord, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("header", "signature", "payload", "delivery")
        HEADER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        DELIVERY_FIELD_NUMBER: _ClassVar[int]
        header: _batch_pb2.Header
        signature: bytes
        payload: InventoryFrame.Records
        delivery: _batch_pb2.Delivery
        def __init__(self, header: _Optional[_Union[_batch_pb2.Header, _Mapping]] = ..., signature: _Optional[bytes] = ..., payload: _Optional[_Union[InventoryFrame.Records, _Mapping]] = ..., delivery: _Optional[_Union[_batch_pb2.Delivery, _Mapping]] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[InventoryFrame.Batch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: _batch_pb2.Gap
    sync: _batch_pb2.Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[InventoryFrame.Batch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[_batch_pb2.Gap, _Mapping]] = ..., sync: _Optional[_Union[_batch_pb2.Sync, _Mapping]] = ...) -> None: ...

class InventoryList(_message.Message):
    __slots__ = ("entries", "next_page_token", "position", "masked_fields")
    class Entry(_message.Message):
        __slots__ = ("source", "stale_since", "record")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        STALE_SINCE_FIELD_NUMBER: _ClassVar[int]
        RECORD_FIELD_NUMBER: _ClassVar[int]
        source: str
        stale_since: _timestamp_pb2.Timestamp
        record: InventoryRecord
        def __init__(self, source: _Optional[str] = ..., stale_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., record: _Optional[_Union[InventoryRecord, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[InventoryList.Entry]
    next_page_token: str
    position: _batch_pb2.Position
    masked_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entries: _Optional[_Iterable[_Union[InventoryList.Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[_Union[_batch_pb2.Position, _Mapping]] = ..., masked_fields: _Optional[_Iterable[str]] = ...) -> None: ...
