import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from telltale.api.mesh.v1 import batch_pb2 as _batch_pb2
from telltale.api.mesh.v1 import product_pb2 as _product_pb2
from telltale.api.mesh.v1 import stream_pb2 as _stream_pb2
from telltale.api.network.v1 import formats_pb2 as _formats_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FlowEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLOW_END_UNSPECIFIED: _ClassVar[FlowEnd]
    FLOW_END_IDLE: _ClassVar[FlowEnd]
    FLOW_END_ACTIVE: _ClassVar[FlowEnd]
    FLOW_END_DETECTED: _ClassVar[FlowEnd]
    FLOW_END_FORCED: _ClassVar[FlowEnd]
    FLOW_END_RESOURCES: _ClassVar[FlowEnd]

class FlowState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLOW_STATE_UNSPECIFIED: _ClassVar[FlowState]
    FLOW_STATE_ATTEMPTED: _ClassVar[FlowState]
    FLOW_STATE_REFUSED: _ClassVar[FlowState]
    FLOW_STATE_ESTABLISHED: _ClassVar[FlowState]
    FLOW_STATE_CLOSED: _ClassVar[FlowState]
    FLOW_STATE_RESET_BY_SOURCE: _ClassVar[FlowState]
    FLOW_STATE_RESET_BY_DESTINATION: _ClassVar[FlowState]
    FLOW_STATE_HALF_CLOSED: _ClassVar[FlowState]
    FLOW_STATE_PARTIAL: _ClassVar[FlowState]
FLOW_END_UNSPECIFIED: FlowEnd
FLOW_END_IDLE: FlowEnd
FLOW_END_ACTIVE: FlowEnd
FLOW_END_DETECTED: FlowEnd
FLOW_END_FORCED: FlowEnd
FLOW_END_RESOURCES: FlowEnd
FLOW_STATE_UNSPECIFIED: FlowState
FLOW_STATE_ATTEMPTED: FlowState
FLOW_STATE_REFUSED: FlowState
FLOW_STATE_ESTABLISHED: FlowState
FLOW_STATE_CLOSED: FlowState
FLOW_STATE_RESET_BY_SOURCE: FlowState
FLOW_STATE_RESET_BY_DESTINATION: FlowState
FLOW_STATE_HALF_CLOSED: FlowState
FLOW_STATE_PARTIAL: FlowState

class FlowsRecord(_message.Message):
    __slots__ = ("time", "start_time", "source_address", "source_port", "destination_address", "destination_port", "protocol", "total_bytes", "total_packets", "reverse_bytes", "reverse_packets", "tcp_flags", "icmp_type_code", "type_of_service", "vlan", "end", "state", "translated_source_address", "translated_source_port", "translated_destination_address", "translated_destination_port", "exporter_address", "observation_domain", "format", "input_interface", "output_interface", "next_hop_address", "source_as", "destination_as", "sampling_rate", "scaled", "vendor_fields")
    TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PACKETS_FIELD_NUMBER: _ClassVar[int]
    REVERSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REVERSE_PACKETS_FIELD_NUMBER: _ClassVar[int]
    TCP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    ICMP_TYPE_CODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_OF_SERVICE_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TRANSLATED_SOURCE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TRANSLATED_SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    TRANSLATED_DESTINATION_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TRANSLATED_DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    INPUT_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    NEXT_HOP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_AS_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_AS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    SCALED_FIELD_NUMBER: _ClassVar[int]
    VENDOR_FIELDS_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    source_address: bytes
    source_port: int
    destination_address: bytes
    destination_port: int
    protocol: int
    total_bytes: int
    total_packets: int
    reverse_bytes: int
    reverse_packets: int
    tcp_flags: int
    icmp_type_code: int
    type_of_service: int
    vlan: int
    end: FlowEnd
    state: FlowState
    translated_source_address: bytes
    translated_source_port: int
    translated_destination_address: bytes
    translated_destination_port: int
    exporter_address: bytes
    observation_domain: int
    format: _formats_pb2.Format
    input_interface: int
    output_interface: int
    next_hop_address: bytes
    source_as: int
    destination_as: int
    sampling_rate: int
    scaled: bool
    vendor_fields: _containers.RepeatedCompositeFieldContainer[VendorField]
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_address: _Optional[bytes] = ..., source_port: _Optional[int] = ..., destination_address: _Optional[bytes] = ..., destination_port: _Optional[int] = ..., protocol: _Optional[int] = ..., total_bytes: _Optional[int] = ..., total_packets: _Optional[int] = ..., reverse_bytes: _Optional[int] = ..., reverse_packets: _Optional[int] = ..., tcp_flags: _Optional[int] = ..., icmp_type_code: _Optional[int] = ..., type_of_service: _Optional[int] = ..., vlan: _Optional[int] = ..., end: _Optional[_Union[FlowEnd, str]] = ..., state: _Optional[_Union[FlowState, str]] = ..., translated_source_address: _Optional[bytes] = ..., translated_source_port: _Optional[int] = ..., translated_destination_address: _Optional[bytes] = ..., translated_destination_port: _Optional[int] = ..., exporter_address: _Optional[bytes] = ..., observation_domain: _Optional[int] = ..., format: _Optional[_Union[_formats_pb2.Format, str]] = ..., input_interface: _Optional[int] = ..., output_interface: _Optional[int] = ..., next_hop_address: _Optional[bytes] = ..., source_as: _Optional[int] = ..., destination_as: _Optional[int] = ..., sampling_rate: _Optional[int] = ..., scaled: _Optional[bool] = ..., vendor_fields: _Optional[_Iterable[_Union[VendorField, _Mapping]]] = ...) -> None: ...

class VendorField(_message.Message):
    __slots__ = ("enterprise", "element", "value")
    ENTERPRISE_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    enterprise: int
    element: int
    value: bytes
    def __init__(self, enterprise: _Optional[int] = ..., element: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class FlowsFrame(_message.Message):
    __slots__ = ("batches", "certificates", "gap", "sync")
    class Records(_message.Message):
        __slots__ = ("records",)
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        records: _containers.RepeatedCompositeFieldContainer[FlowsRecord]
        def __init__(self, records: _Optional[_Iterable[_Union[FlowsRecord, _Mapping]]] = ...) -> None: ...
    class Batch(_message.Message):
        __slots__ = ("header", "signature", "payload", "delivery")
        HEADER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        DELIVERY_FIELD_NUMBER: _ClassVar[int]
        header: _batch_pb2.Header
        signature: bytes
        payload: FlowsFrame.Records
        delivery: _batch_pb2.Delivery
        def __init__(self, header: _Optional[_Union[_batch_pb2.Header, _Mapping]] = ..., signature: _Optional[bytes] = ..., payload: _Optional[_Union[FlowsFrame.Records, _Mapping]] = ..., delivery: _Optional[_Union[_batch_pb2.Delivery, _Mapping]] = ...) -> None: ...
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[FlowsFrame.Batch]
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    gap: _batch_pb2.Gap
    sync: _batch_pb2.Sync
    def __init__(self, batches: _Optional[_Iterable[_Union[FlowsFrame.Batch, _Mapping]]] = ..., certificates: _Optional[_Iterable[bytes]] = ..., gap: _Optional[_Union[_batch_pb2.Gap, _Mapping]] = ..., sync: _Optional[_Union[_batch_pb2.Sync, _Mapping]] = ...) -> None: ...
