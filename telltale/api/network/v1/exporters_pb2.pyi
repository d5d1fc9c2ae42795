import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from telltale.api.mesh.v1 import product_pb2 as _product_pb2
from telltale.api.mesh.v1 import stream_pb2 as _stream_pb2
from telltale.api.network.v1 import formats_pb2 as _formats_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExporterState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPORTER_STATE_UNSPECIFIED: _ClassVar[ExporterState]
    EXPORTER_STATE_ACTIVE: _ClassVar[ExporterState]
    EXPORTER_STATE_SILENT: _ClassVar[ExporterState]
    EXPORTER_STATE_REFUSED: _ClassVar[ExporterState]
EXPORTER_STATE_UNSPECIFIED: ExporterState
EXPORTER_STATE_ACTIVE: ExporterState
EXPORTER_STATE_SILENT: ExporterState
EXPORTER_STATE_REFUSED: ExporterState

class ExportersRecord(_message.Message):
    __slots__ = ("time", "address", "observation_domain", "format", "state", "state_since", "template_ids", "sampling_rate", "clock_skew_seconds", "datagrams", "records", "lost_records", "lost_datagrams", "malformed_datagrams", "undecoded_sets")
    TIME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_SINCE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATAGRAMS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LOST_RECORDS_FIELD_NUMBER: _ClassVar[int]
    LOST_DATAGRAMS_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_DATAGRAMS_FIELD_NUMBER: _ClassVar[int]
    UNDECODED_SETS_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    address: bytes
    observation_domain: int
    format: _formats_pb2.Format
    state: ExporterState
    state_since: _timestamp_pb2.Timestamp
    template_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling_rate: int
    clock_skew_seconds: float
    datagrams: int
    records: int
    lost_records: int
    lost_datagrams: int
    malformed_datagrams: int
    undecoded_sets: int
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., address: _Optional[bytes] = ..., observation_domain: _Optional[int] = ..., format: _Optional[_Union[_formats_pb2.Format, str]] = ..., state: _Optional[_Union[ExporterState, str]] = ..., state_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., template_ids: _Optional[_Iterable[int]] = ..., sampling_rate: _Optional[int] = ..., clock_skew_seconds: _Optional[float] = ..., datagrams: _Optional[int] = ..., records: _Optional[int] = ..., lost_records: _Optional[int] = ..., lost_datagrams: _Optional[int] = ..., malformed_datagrams: _Optional[int] = ..., undecoded_sets: _Optional[int] = ...) -> None: ...

class ExportersFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    class Records(_message.Message):
        __slots__ = ("records", "removed")
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        REMOVED_FIELD_NUMBER: _ClassVar[int]
        records: _containers.RepeatedCompositeFieldContainer[ExportersRecord]
        removed: _containers.RepeatedCompositeFieldContainer[ExportersRecord]
        def __init__(self, records: _Optional[_Iterable[_Union[ExportersRecord, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[ExportersRecord, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("header", "signature", "payload", "delivery")
        HEADER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        DELIVERY_FIELD_NUMBER: _ClassVar[int]
        header: _batch_pb2.Header
        signature: bytes
        payload: ExportersFrame.Records
        delivery: _batch_pb2.Delivery
        def __init__(self, header: _Optional[_Union[_batch_pb2.Header, _Mapping]] = ..., signature: _Optional[bytes] = ..., payload: _Optional[_Union[ExportersFrame.Records, _Mapping]] = ..., delivery: _Optional[_Union[_batch_pb2.Delivery, _Mapping]] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[ExportersFrame.Batch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: _batch_pb2.Gap
    sync: _batch_pb2.Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[ExportersFrame.Batch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[_batch_pb2.Gap, _Mapping]] = ..., sync: _Optional[_Union[_batch_pb2.Sync, _Mapping]] = ...) -> None: ...

class ExportersList(_message.Message):
    __slots__ = ("entries", "next_page_token", "position", "masked_fields")
    class Entry(_message.Message):
        __slots__ = ("source", "stale_since", "record")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        STALE_SINCE_FIELD_NUMBER: _ClassVar[int]
        RECORD_FIELD_NUMBER: _ClassVar[int]
        source: str
        stale_since: _timestamp_pb2.Timestamp
        record: ExportersRecord
        def __init__(self, source: _Optional[str] = ..., stale_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., record: _Optional[_Union[ExportersRecord, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[ExportersList.Entry]
    next_page_token: str
    position: _batch_pb2.Position
    masked_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entries: _Optional[_Iterable[_Union[ExportersList.Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[_Union[_batch_pb2.Position, _Mapping]] = ..., masked_fields: _Optional[_Iterable[str]] = ...) -> None: ...
