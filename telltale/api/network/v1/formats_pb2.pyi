from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORMAT_UNSPECIFIED: _ClassVar[Format]
    FORMAT_NETFLOW_V5: _ClassVar[Format]
    FORMAT_NETFLOW_V9: _ClassVar[Format]
    FORMAT_IPFIX: _ClassVar[Format]
    FORMAT_SFLOW_V5: _ClassVar[Format]
    FORMAT_ZEEK: _ClassVar[Format]
FORMAT_UNSPECIFIED: Format
FORMAT_NETFLOW_V5: Format
FORMAT_NETFLOW_V9: Format
FORMAT_IPFIX: Format
FORMAT_SFLOW_V5: Format
FORMAT_ZEEK: Format
