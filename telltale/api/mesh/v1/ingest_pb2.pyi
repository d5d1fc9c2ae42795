import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RefusalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_REASON_UNSPECIFIED: _ClassVar[RefusalReason]
    REFUSAL_REASON_MALFORMED: _ClassVar[RefusalReason]
    REFUSAL_REASON_PERMISSION: _ClassVar[RefusalReason]
    REFUSAL_REASON_FOREIGN_SOURCE: _ClassVar[RefusalReason]
    REFUSAL_REASON_SIGNATURE: _ClassVar[RefusalReason]
    REFUSAL_REASON_FORK: _ClassVar[RefusalReason]
    REFUSAL_REASON_BROKEN_CHAIN: _ClassVar[RefusalReason]
    REFUSAL_REASON_STALE_EPOCH: _ClassVar[RefusalReason]
    REFUSAL_REASON_FUTURE: _ClassVar[RefusalReason]
    REFUSAL_REASON_UNKNOWN_SCHEMA: _ClassVar[RefusalReason]
    REFUSAL_REASON_TOO_LARGE: _ClassVar[RefusalReason]
    REFUSAL_REASON_DISTRUSTED: _ClassVar[RefusalReason]
    REFUSAL_REASON_UNAVAILABLE: _ClassVar[RefusalReason]
REFUSAL_REASON_UNSPECIFIED: RefusalReason
REFUSAL_REASON_MALFORMED: RefusalReason
REFUSAL_REASON_PERMISSION: RefusalReason
REFUSAL_REASON_FOREIGN_SOURCE: RefusalReason
REFUSAL_REASON_SIGNATURE: RefusalReason
REFUSAL_REASON_FORK: RefusalReason
REFUSAL_REASON_BROKEN_CHAIN: RefusalReason
REFUSAL_REASON_STALE_EPOCH: RefusalReason
REFUSAL_REASON_FUTURE: RefusalReason
REFUSAL_REASON_UNKNOWN_SCHEMA: RefusalReason
REFUSAL_REASON_TOO_LARGE: RefusalReason
REFUSAL_REASON_DISTRUSTED: RefusalReason
REFUSAL_REASON_UNAVAILABLE: RefusalReason

class ChainsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChainsResponse(_message.Message):
    __slots__ = ("chains",)
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    chains: _containers.RepeatedCompositeFieldContainer[ChainHead]
    def __init__(self, chains: _Optional[_Iterable[_Union[ChainHead, _Mapping]]] = ...) -> None: ...

class ChainHead(_message.Message):
    __slots__ = ("product", "epoch", "sequence", "header_sha256")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEADER_SHA256_FIELD_NUMBER: _ClassVar[int]
    product: str
    epoch: int
    sequence: int
    header_sha256: bytes
    def __init__(self, product: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., header_sha256: _Optional[bytes] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("batches", "certificates")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[_batch_pb2.SealedBatch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, batches: _Optional[_Iterable[_Union[_batch_pb2.SealedBatch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("acks", "refusals")
    ACKS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    acks: _containers.RepeatedCompositeFieldContainer[Ack]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, acks: _Optional[_Iterable[_Union[Ack, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("product", "epoch", "sequence")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    product: str
    epoch: int
    sequence: int
    def __init__(self, product: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("product", "epoch", "sequence", "reason", "detail", "final", "retry_time")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    RETRY_TIME_FIELD_NUMBER: _ClassVar[int]
    product: str
    epoch: int
    sequence: int
    reason: RefusalReason
    detail: str
    final: bool
    retry_time: _timestamp_pb2.Timestamp
    def __init__(self, product: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., reason: _Optional[_Union[RefusalReason, str]] = ..., detail: _Optional[str] = ..., final: _Optional[bool] = ..., retry_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
