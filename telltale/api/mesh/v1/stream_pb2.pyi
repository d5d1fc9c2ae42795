from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Start(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    START_UNSPECIFIED: _ClassVar[Start]
    START_EARLIEST: _ClassVar[Start]
    START_LATEST: _ClassVar[Start]
START_UNSPECIFIED: Start
START_EARLIEST: Start
START_LATEST: Start

class StreamSubscribeRequest(_message.Message):
    __slots__ = ("products", "cursor", "start")
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    products: _containers.RepeatedScalarFieldContainer[str]
    cursor: _batch_pb2.Cursor
    start: Start
    def __init__(self, products: _Optional[_Iterable[str]] = ..., cursor: _Optional[_Union[_batch_pb2.Cursor, _Mapping]] = ..., start: _Optional[_Union[Start, str]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("cursor", "start")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    cursor: _batch_pb2.Cursor
    start: Start
    def __init__(self, cursor: _Optional[_Union[_batch_pb2.Cursor, _Mapping]] = ..., start: _Optional[_Union[Start, str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: str
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...
