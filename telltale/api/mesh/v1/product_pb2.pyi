import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_SAMPLES: _ClassVar[Kind]
    KIND_EVENTS: _ClassVar[Kind]
    KIND_INVENTORY: _ClassVar[Kind]

class Store(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STORE_UNSPECIFIED: _ClassVar[Store]
    STORE_ROWS: _ClassVar[Store]
    STORE_COLUMNS: _ClassVar[Store]

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_EXPERIMENTAL: _ClassVar[Status]
    STATUS_STABLE: _ClassVar[Status]
    STATUS_DEPRECATED: _ClassVar[Status]

class Classification(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLASSIFICATION_UNSPECIFIED: _ClassVar[Classification]
    CLASSIFICATION_PUBLIC: _ClassVar[Classification]
    CLASSIFICATION_INTERNAL: _ClassVar[Classification]
    CLASSIFICATION_CONFIDENTIAL: _ClassVar[Classification]
    CLASSIFICATION_PERSONAL: _ClassVar[Classification]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_TIME: _ClassVar[Role]
    ROLE_KEY: _ClassVar[Role]
    ROLE_ENTITY_HOST: _ClassVar[Role]
    ROLE_ENTITY_ACCOUNT: _ClassVar[Role]
    ROLE_ENTITY_PROCESS: _ClassVar[Role]
    ROLE_ENTITY_ADDRESS: _ClassVar[Role]
    ROLE_ENTITY_PRINCIPAL: _ClassVar[Role]
    ROLE_COUNTER: _ClassVar[Role]
    ROLE_GAUGE: _ClassVar[Role]
KIND_UNSPECIFIED: Kind
KIND_SAMPLES: Kind
KIND_EVENTS: Kind
KIND_INVENTORY: Kind
STORE_UNSPECIFIED: Store
STORE_ROWS: Store
STORE_COLUMNS: Store
STATUS_UNSPECIFIED: Status
STATUS_EXPERIMENTAL: Status
STATUS_STABLE: Status
STATUS_DEPRECATED: Status
CLASSIFICATION_UNSPECIFIED: Classification
CLASSIFICATION_PUBLIC: Classification
CLASSIFICATION_INTERNAL: Classification
CLASSIFICATION_CONFIDENTIAL: Classification
CLASSIFICATION_PERSONAL: Classification
ROLE_UNSPECIFIED: Role
ROLE_TIME: Role
ROLE_KEY: Role
ROLE_ENTITY_HOST: Role
ROLE_ENTITY_ACCOUNT: Role
ROLE_ENTITY_PROCESS: Role
ROLE_ENTITY_ADDRESS: Role
ROLE_ENTITY_PRINCIPAL: Role
ROLE_COUNTER: Role
ROLE_GAUGE: Role
PRODUCT_FIELD_NUMBER: _ClassVar[int]
product: _descriptor.FieldDescriptor
FIELD_FIELD_NUMBER: _ClassVar[int]
field: _descriptor.FieldDescriptor

class Product(_message.Message):
    __slots__ = ("name", "kind", "owner", "support", "version", "status", "purpose", "limitations", "classification", "freshness", "retention", "open_to_all_trust_domains", "store")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    LIMITATIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    OPEN_TO_ALL_TRUST_DOMAINS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: Kind
    owner: str
    support: str
    version: str
    status: Status
    purpose: str
    limitations: _containers.RepeatedScalarFieldContainer[str]
    classification: Classification
    freshness: _duration_pb2.Duration
    retention: _duration_pb2.Duration
    open_to_all_trust_domains: bool
    store: Store
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., owner: _Optional[str] = ..., support: _Optional[str] = ..., version: _Optional[str] = ..., status: _Optional[_Union[Status, str]] = ..., purpose: _Optional[str] = ..., limitations: _Optional[_Iterable[str]] = ..., classification: _Optional[_Union[Classification, str]] = ..., freshness: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., open_to_all_trust_domains: _Optional[bool] = ..., store: _Optional[_Union[Store, str]] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("unit", "semconv", "classification", "roles")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SEMCONV_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    unit: str
    semconv: str
    classification: Classification
    roles: _containers.RepeatedScalarFieldContainer[Role]
    def __init__(self, unit: _Optional[str] = ..., semconv: _Optional[str] = ..., classification: _Optional[_Union[Classification, str]] = ..., roles: _Optional[_Iterable[_Union[Role, str]]] = ...) -> None: ...
