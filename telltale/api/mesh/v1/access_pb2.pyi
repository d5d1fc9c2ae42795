from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_DISCOVER: _ClassVar[Action]
    ACTION_SUBSCRIBE: _ClassVar[Action]
    ACTION_LIST: _ClassVar[Action]
    ACTION_PUSH: _ClassVar[Action]
    ACTION_ACT: _ClassVar[Action]
    ACTION_REPLAY: _ClassVar[Action]
    ACTION_WATCH: _ClassVar[Action]
ACTION_UNSPECIFIED: Action
ACTION_DISCOVER: Action
ACTION_SUBSCRIBE: Action
ACTION_LIST: Action
ACTION_PUSH: Action
ACTION_ACT: Action
ACTION_REPLAY: Action
ACTION_WATCH: Action

class CheckRequest(_message.Message):
    __slots__ = ("token", "queries")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    token: str
    queries: _containers.RepeatedCompositeFieldContainer[AccessQuery]
    def __init__(self, token: _Optional[str] = ..., queries: _Optional[_Iterable[_Union[AccessQuery, _Mapping]]] = ...) -> None: ...

class AccessQuery(_message.Message):
    __slots__ = ("action", "product")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    action: Action
    product: str
    def __init__(self, action: _Optional[_Union[Action, str]] = ..., product: _Optional[str] = ...) -> None: ...

class DescribePolicyRequest(_message.Message):
    __slots__ = ("trust_domain",)
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    def __init__(self, trust_domain: _Optional[str] = ...) -> None: ...

class DescribePolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    def __init__(self, policy: _Optional[str] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("decisions",)
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[AccessDecision]
    def __init__(self, decisions: _Optional[_Iterable[_Union[AccessDecision, _Mapping]]] = ...) -> None: ...

class AccessDecision(_message.Message):
    __slots__ = ("allowed", "reason")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    reason: str
    def __init__(self, allowed: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...
