import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import product_pb2 as _product_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CatalogState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CATALOG_STATE_UNSPECIFIED: _ClassVar[CatalogState]
    CATALOG_STATE_LIVE: _ClassVar[CatalogState]
    CATALOG_STATE_UNREACHABLE: _ClassVar[CatalogState]
CATALOG_STATE_UNSPECIFIED: CatalogState
CATALOG_STATE_LIVE: CatalogState
CATALOG_STATE_UNREACHABLE: CatalogState

class RegisterRequest(_message.Message):
    __slots__ = ("address", "descriptors_sha256")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_SHA256_FIELD_NUMBER: _ClassVar[int]
    address: str
    descriptors_sha256: bytes
    def __init__(self, address: _Optional[str] = ..., descriptors_sha256: _Optional[bytes] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: _duration_pb2.Duration
    def __init__(self, lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListProductsRequest(_message.Message):
    __slots__ = ("products",)
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    products: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, products: _Optional[_Iterable[str]] = ...) -> None: ...

class ListProductsResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[CatalogEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[CatalogEntry, _Mapping]]] = ...) -> None: ...

class CatalogEntry(_message.Message):
    __slots__ = ("product", "service", "description", "trust_domain", "state", "state_since", "records", "batches", "last_event_time", "last_received_time", "subscribers")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_SINCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_RECEIVED_TIME_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBERS_FIELD_NUMBER: _ClassVar[int]
    product: _product_pb2.Product
    service: str
    description: str
    trust_domain: str
    state: CatalogState
    state_since: _timestamp_pb2.Timestamp
    records: int
    batches: int
    last_event_time: _timestamp_pb2.Timestamp
    last_received_time: _timestamp_pb2.Timestamp
    subscribers: int
    def __init__(self, product: _Optional[_Union[_product_pb2.Product, _Mapping]] = ..., service: _Optional[str] = ..., description: _Optional[str] = ..., trust_domain: _Optional[str] = ..., state: _Optional[_Union[CatalogState, str]] = ..., state_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., records: _Optional[int] = ..., batches: _Optional[int] = ..., last_event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_received_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., subscribers: _Optional[int] = ...) -> None: ...
