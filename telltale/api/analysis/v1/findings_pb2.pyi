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

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_OPEN: _ClassVar[State]
    STATE_ENDED: _ClassVar[State]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_PERFORMANCE: _ClassVar[Verdict]
    VERDICT_SECURITY: _ClassVar[Verdict]
    VERDICT_INTEGRITY: _ClassVar[Verdict]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFORMATIONAL: _ClassVar[Severity]
    SEVERITY_LOW: _ClassVar[Severity]
    SEVERITY_MEDIUM: _ClassVar[Severity]
    SEVERITY_HIGH: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]

class EntityKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTITY_KIND_UNSPECIFIED: _ClassVar[EntityKind]
    ENTITY_KIND_HOST: _ClassVar[EntityKind]
    ENTITY_KIND_ACCOUNT: _ClassVar[EntityKind]
    ENTITY_KIND_PROCESS: _ClassVar[EntityKind]
    ENTITY_KIND_ADDRESS: _ClassVar[EntityKind]
    ENTITY_KIND_PRINCIPAL: _ClassVar[EntityKind]
    ENTITY_KIND_PRODUCT: _ClassVar[EntityKind]
STATE_UNSPECIFIED: State
STATE_OPEN: State
STATE_ENDED: State
VERDICT_UNSPECIFIED: Verdict
VERDICT_PERFORMANCE: Verdict
VERDICT_SECURITY: Verdict
VERDICT_INTEGRITY: Verdict
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFORMATIONAL: Severity
SEVERITY_LOW: Severity
SEVERITY_MEDIUM: Severity
SEVERITY_HIGH: Severity
SEVERITY_CRITICAL: Severity
ENTITY_KIND_UNSPECIFIED: EntityKind
ENTITY_KIND_HOST: EntityKind
ENTITY_KIND_ACCOUNT: EntityKind
ENTITY_KIND_PROCESS: EntityKind
ENTITY_KIND_ADDRESS: EntityKind
ENTITY_KIND_PRINCIPAL: EntityKind
ENTITY_KIND_PRODUCT: EntityKind

class FindingsRecord(_message.Message):
    __slots__ = ("time", "id", "revision", "state", "detection", "detection_version", "verdict", "severity", "title", "technique", "entity_kind", "entity", "part", "host", "product", "source", "origin", "window_start", "window_end", "value", "threshold", "unit", "occurrences", "evidence", "completeness", "replay_run")
    TIME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETECTION_FIELD_NUMBER: _ClassVar[int]
    DETECTION_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TECHNIQUE_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KIND_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_FIELD_NUMBER: _ClassVar[int]
    WINDOW_END_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    OCCURRENCES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_FIELD_NUMBER: _ClassVar[int]
    REPLAY_RUN_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    id: str
    revision: int
    state: State
    detection: str
    detection_version: int
    verdict: Verdict
    severity: Severity
    title: str
    technique: str
    entity_kind: EntityKind
    entity: str
    part: str
    host: str
    product: str
    source: str
    origin: _batch_pb2.Origin
    window_start: _timestamp_pb2.Timestamp
    window_end: _timestamp_pb2.Timestamp
    value: float
    threshold: float
    unit: str
    occurrences: int
    evidence: _containers.RepeatedCompositeFieldContainer[Fact]
    completeness: Completeness
    replay_run: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., id: _Optional[str] = ..., revision: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., detection: _Optional[str] = ..., detection_version: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., title: _Optional[str] = ..., technique: _Optional[str] = ..., entity_kind: _Optional[_Union[EntityKind, str]] = ..., entity: _Optional[str] = ..., part: _Optional[str] = ..., host: _Optional[str] = ..., product: _Optional[str] = ..., source: _Optional[str] = ..., origin: _Optional[_Union[_batch_pb2.Origin, str]] = ..., window_start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., window_end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., value: _Optional[float] = ..., threshold: _Optional[float] = ..., unit: _Optional[str] = ..., occurrences: _Optional[int] = ..., evidence: _Optional[_Iterable[_Union[Fact, _Mapping]]] = ..., completeness: _Optional[_Union[Completeness, _Mapping]] = ..., replay_run: _Optional[str] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Completeness(_message.Message):
    __slots__ = ("lost_records", "uncounted_losses", "hole_records", "missing_batches", "refused_batches", "late_records", "gaps")
    LOST_RECORDS_FIELD_NUMBER: _ClassVar[int]
    UNCOUNTED_LOSSES_FIELD_NUMBER: _ClassVar[int]
    HOLE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    MISSING_BATCHES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BATCHES_FIELD_NUMBER: _ClassVar[int]
    LATE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    GAPS_FIELD_NUMBER: _ClassVar[int]
    lost_records: int
    uncounted_losses: int
    hole_records: int
    missing_batches: int
    refused_batches: int
    late_records: int
    gaps: int
    def __init__(self, lost_records: _Optional[int] = ..., uncounted_losses: _Optional[int] = ..., hole_records: _Optional[int] = ..., missing_batches: _Optional[int] = ..., refused_batches: _Optional[int] = ..., late_records: _Optional[int] = ..., gaps: _Optional[int] = ...) -> None: ...

class FindingsFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    class Records(_message.Message):
        __slots__ = ("records",)
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        records: _containers.RepeatedCompositeFieldContainer[FindingsRecord]
        def __init__(self, records: _Optional[_Iterable[_Union[FindingsRecord, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("header", "signature", "payload", "delivery")
        HEADER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        DELIVERY_FIELD_NUMBER: _ClassVar[int]
        header: _batch_pb2.Header
        signature: bytes
        payload: FindingsFrame.Records
        delivery: _batch_pb2.Delivery
        def __init__(self, header: _Optional[_Union[_batch_pb2.Header, _Mapping]] = ..., signature: _Optional[bytes] = ..., payload: _Optional[_Union[FindingsFrame.Records, _Mapping]] = ..., delivery: _Optional[_Union[_batch_pb2.Delivery, _Mapping]] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[FindingsFrame.Batch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: _batch_pb2.Gap
    sync: _batch_pb2.Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[FindingsFrame.Batch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[_batch_pb2.Gap, _Mapping]] = ..., sync: _Optional[_Union[_batch_pb2.Sync, _Mapping]] = ...) -> None: ...
