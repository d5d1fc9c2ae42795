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

class AuditRecord(_message.Message):
    __slots__ = ("time", "last_time", "count", "reporter", "action", "allowed", "principal", "product", "subject", "reason", "rules", "peer", "address")
    TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_TIME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REPORTER_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    last_time: _timestamp_pb2.Timestamp
    count: int
    reporter: str
    action: str
    allowed: bool
    principal: str
    product: str
    subject: str
    reason: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    peer: str
    address: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., count: _Optional[int] = ..., reporter: _Optional[str] = ..., action: _Optional[str] = ..., allowed: _Optional[bool] = ..., principal: _Optional[str] = ..., product: _Optional[str] = ..., subject: _Optional[str] = ..., reason: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ..., peer: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class AuditFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    class Records(_message.Message):
        __slots__ = ("records",)
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        records: _containers.RepeatedCompositeFieldContainer[AuditRecord]
        def __init__(self, records: _Optional[_Iterable[_Union[AuditRecord, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("header", "signature", "payload", "delivery")
        HEADER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        DELIVERY_FIELD_NUMBER: _ClassVar[int]
        header: _batch_pb2.Header
        signature: bytes
        payload: AuditFrame.Records
        delivery: _batch_pb2.Delivery
        def __init__(self, header: _Optional[_Union[_batch_pb2.Header, _Mapping]] = ..., signature: _Optional[bytes] = ..., payload: _Optional[_Union[AuditFrame.Records, _Mapping]] = ..., delivery: _Optional[_Union[_batch_pb2.Delivery, _Mapping]] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[AuditFrame.Batch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: _batch_pb2.Gap
    sync: _batch_pb2.Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[AuditFrame.Batch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[_batch_pb2.Gap, _Mapping]] = ..., sync: _Optional[_Union[_batch_pb2.Sync, _Mapping]] = ...) -> None: ...
