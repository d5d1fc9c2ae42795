import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from telltale.api.mesh.v1 import product_pb2 as _product_pb2
from telltale.api.mesh.v1 import stream_pb2 as _stream_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Enablement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENABLEMENT_UNSPECIFIED: _ClassVar[Enablement]
    ENABLEMENT_ENABLED: _ClassVar[Enablement]
    ENABLEMENT_DISABLED: _ClassVar[Enablement]
    ENABLEMENT_STATIC: _ClassVar[Enablement]
    ENABLEMENT_MASKED: _ClassVar[Enablement]
    ENABLEMENT_TRANSIENT: _ClassVar[Enablement]
ENABLEMENT_UNSPECIFIED: Enablement
ENABLEMENT_ENABLED: Enablement
ENABLEMENT_DISABLED: Enablement
ENABLEMENT_STATIC: Enablement
ENABLEMENT_MASKED: Enablement
ENABLEMENT_TRANSIENT: Enablement

class UnitsRecord(_message.Message):
    __slots__ = ("time", "unit", "description", "active", "invocation_id", "active_since", "enablement", "path", "drop_ins", "account", "command", "definition_sha256")
    TIME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SINCE_FIELD_NUMBER: _ClassVar[int]
    ENABLEMENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DROP_INS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_SHA256_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    unit: str
    description: str
    active: bool
    invocation_id: str
    active_since: _timestamp_pb2.Timestamp
    enablement: Enablement
    path: str
    drop_ins: _containers.RepeatedScalarFieldContainer[str]
    account: str
    command: str
    definition_sha256: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unit: _Optional[str] = ..., description: _Optional[str] = ..., active: _Optional[bool] = ..., invocation_id: _Optional[str] = ..., active_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., enablement: _Optional[_Union[Enablement, str]] = ..., path: _Optional[str] = ..., drop_ins: _Optional[_Iterable[str]] = ..., account: _Optional[str] = ..., command: _Optional[str] = ..., definition_sha256: _Optional[str] = ...) -> None: ...

class UnitsFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    class Records(_message.Message):
        __slots__ = ("records", "removed")
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        REMOVED_FIELD_NUMBER: _ClassVar[int]
        records: _containers.RepeatedCompositeFieldContainer[UnitsRecord]
        removed: _containers.RepeatedCompositeFieldContainer[UnitsRecord]
        def __init__(self, records: _Optional[_Iterable[_Union[UnitsRecord, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[UnitsRecord, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("header", "signature", "payload", "delivery")
        HEADER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        DELIVERY_FIELD_NUMBER: _ClassVar[int]
        header: _batch_pb2.Header
        signature: bytes
        payload: UnitsFrame.Records
        delivery: _batch_pb2.Delivery
        def __init__(self, header: _Optional[_Union[_batch_pb2.Header, _Mapping]] = ..., signature: _Optional[bytes] = ..., payload: _Optional[_Union[UnitsFrame.Records, _Mapping]] = ..., delivery: _Optional[_Union[_batch_pb2.Delivery, _Mapping]] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[UnitsFrame.Batch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: _batch_pb2.Gap
    sync: _batch_pb2.Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[UnitsFrame.Batch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[_batch_pb2.Gap, _Mapping]] = ..., sync: _Optional[_Union[_batch_pb2.Sync, _Mapping]] = ...) -> None: ...

class UnitsList(_message.Message):
    __slots__ = ("entries", "next_page_token", "position", "masked_fields")
    class Entry(_message.Message):
        __slots__ = ("source", "stale_since", "record")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        STALE_SINCE_FIELD_NUMBER: _ClassVar[int]
        RECORD_FIELD_NUMBER: _ClassVar[int]
        source: str
        stale_since: _timestamp_pb2.Timestamp
        record: UnitsRecord
        def __init__(self, source: _Optional[str] = ..., stale_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., record: _Optional[_Union[UnitsRecord, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[UnitsList.Entry]
    next_page_token: str
    position: _batch_pb2.Position
    masked_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entries: _Optional[_Iterable[_Union[UnitsList.Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[_Union[_batch_pb2.Position, _Mapping]] = ..., masked_fields: _Optional[_Iterable[str]] = ...) -> None: ...
