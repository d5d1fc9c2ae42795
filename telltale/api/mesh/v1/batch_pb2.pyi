import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LossReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOSS_REASON_UNSPECIFIED: _ClassVar[LossReason]
    LOSS_REASON_METHOD: _ClassVar[LossReason]
    LOSS_REASON_UPSTREAM: _ClassVar[LossReason]
    LOSS_REASON_FAILURE: _ClassVar[LossReason]
    LOSS_REASON_BOUND: _ClassVar[LossReason]

class HoleReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOLE_REASON_UNSPECIFIED: _ClassVar[HoleReason]
    HOLE_REASON_SHED: _ClassVar[HoleReason]
    HOLE_REASON_REFUSED: _ClassVar[HoleReason]
    HOLE_REASON_DAMAGED: _ClassVar[HoleReason]

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_AUTHENTICATED: _ClassVar[Origin]
    ORIGIN_OBSERVED: _ClassVar[Origin]

class GapReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GAP_REASON_UNSPECIFIED: _ClassVar[GapReason]
    GAP_REASON_LOG_REPLACED: _ClassVar[GapReason]
    GAP_REASON_RETENTION: _ClassVar[GapReason]
    GAP_REASON_DAMAGED: _ClassVar[GapReason]
LOSS_REASON_UNSPECIFIED: LossReason
LOSS_REASON_METHOD: LossReason
LOSS_REASON_UPSTREAM: LossReason
LOSS_REASON_FAILURE: LossReason
LOSS_REASON_BOUND: LossReason
HOLE_REASON_UNSPECIFIED: HoleReason
HOLE_REASON_SHED: HoleReason
HOLE_REASON_REFUSED: HoleReason
HOLE_REASON_DAMAGED: HoleReason
ORIGIN_UNSPECIFIED: Origin
ORIGIN_AUTHENTICATED: Origin
ORIGIN_OBSERVED: Origin
GAP_REASON_UNSPECIFIED: GapReason
GAP_REASON_LOG_REPLACED: GapReason
GAP_REASON_RETENTION: GapReason
GAP_REASON_DAMAGED: GapReason

class Header(_message.Message):
    __slots__ = ("product", "source", "epoch", "sequence", "record_count", "first_event_time", "last_event_time", "sealed_time", "payload_sha256", "previous_header_sha256", "schema_sha256", "signer_sha256", "snapshot", "losses", "holes", "origin", "replay_run")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    SEALED_TIME_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HEADER_SHA256_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNER_SHA256_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    HOLES_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    REPLAY_RUN_FIELD_NUMBER: _ClassVar[int]
    product: str
    source: str
    epoch: int
    sequence: int
    record_count: int
    first_event_time: _timestamp_pb2.Timestamp
    last_event_time: _timestamp_pb2.Timestamp
    sealed_time: _timestamp_pb2.Timestamp
    payload_sha256: bytes
    previous_header_sha256: bytes
    schema_sha256: bytes
    signer_sha256: bytes
    snapshot: Snapshot
    losses: _containers.RepeatedCompositeFieldContainer[Loss]
    holes: _containers.RepeatedCompositeFieldContainer[Hole]
    origin: Origin
    replay_run: str
    def __init__(self, product: _Optional[str] = ..., source: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., record_count: _Optional[int] = ..., first_event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sealed_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., payload_sha256: _Optional[bytes] = ..., previous_header_sha256: _Optional[bytes] = ..., schema_sha256: _Optional[bytes] = ..., signer_sha256: _Optional[bytes] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., losses: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ..., holes: _Optional[_Iterable[_Union[Hole, _Mapping]]] = ..., origin: _Optional[_Union[Origin, str]] = ..., replay_run: _Optional[str] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("id", "end", "index")
    ID_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    id: str
    end: bool
    index: int
    def __init__(self, id: _Optional[str] = ..., end: _Optional[bool] = ..., index: _Optional[int] = ...) -> None: ...

class Loss(_message.Message):
    __slots__ = ("records", "reason", "detail")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    records: int
    reason: LossReason
    detail: str
    def __init__(self, records: _Optional[int] = ..., reason: _Optional[_Union[LossReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Hole(_message.Message):
    __slots__ = ("first_sequence", "last_sequence", "records", "reason")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    last_sequence: int
    records: int
    reason: HoleReason
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., records: _Optional[int] = ..., reason: _Optional[_Union[HoleReason, str]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("log", "offset", "received_time", "masked_fields")
    LOG_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_TIME_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    log: str
    offset: int
    received_time: _timestamp_pb2.Timestamp
    masked_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, log: _Optional[str] = ..., offset: _Optional[int] = ..., received_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., masked_fields: _Optional[_Iterable[str]] = ...) -> None: ...

class SealedBatch(_message.Message):
    __slots__ = ("header", "signature", "payload", "delivery")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    signature: bytes
    payload: bytes
    delivery: bytes
    def __init__(self, header: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., delivery: _Optional[bytes] = ...) -> None: ...

class SealedFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[SealedBatch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: Gap
    sync: Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[SealedBatch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[Gap, _Mapping]] = ..., sync: _Optional[_Union[Sync, _Mapping]] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("reason", "product", "log", "after_offset", "resumed")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    AFTER_OFFSET_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    reason: GapReason
    product: str
    log: str
    after_offset: int
    resumed: Position
    def __init__(self, reason: _Optional[_Union[GapReason, str]] = ..., product: _Optional[str] = ..., log: _Optional[str] = ..., after_offset: _Optional[int] = ..., resumed: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Sync(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: Position
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("product", "log", "offset")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    product: str
    log: str
    offset: int
    def __init__(self, product: _Optional[str] = ..., log: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("positions",)
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedCompositeFieldContainer[Position]
    def __init__(self, positions: _Optional[_Iterable[_Union[Position, _Mapping]]] = ...) -> None: ...
