import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SealedList(_message.Message):
    __slots__ = ("entries", "next_page_token", "position", "masked_fields")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[SealedEntry]
    next_page_token: str
    position: _batch_pb2.Position
    masked_fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entries: _Optional[_Iterable[_Union[SealedEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[_Union[_batch_pb2.Position, _Mapping]] = ..., masked_fields: _Optional[_Iterable[str]] = ...) -> None: ...

class SealedEntry(_message.Message):
    __slots__ = ("source", "stale_since", "record")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STALE_SINCE_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    source: str
    stale_since: _timestamp_pb2.Timestamp
    record: bytes
    def __init__(self, source: _Optional[str] = ..., stale_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., record: _Optional[bytes] = ...) -> None: ...
