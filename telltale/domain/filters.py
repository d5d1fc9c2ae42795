"""The filter of List: conditions on a record's fields, joined by AND, compiled to a predicate.

`field = "text"`, `field != 3`, `field >= 1.5`, `field = true`, `field : "part"`,
`time > "2026-01-31T12:00:00Z"`.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from telltale.contract.fields import is_repeated
from telltale.errors import InvalidInput

MAX_BYTES = 4096
MAX_CONDITIONS = 32
# The source of a row is part of what a filter sees, though no field of the record.
SOURCE = "source"

# Whether a row, given as its source and its record, is wanted.
Predicate: TypeAlias = Callable[[str, Message], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?)
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<compare>!=|<=|>=|=|<|>|:)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    ":": lambda value, part: part in value,
}


def compile_filter(
    text: str, record: Descriptor, require_visible: Callable[[str], None] = lambda field: None
) -> Predicate:
    """The predicate that a filter states; an empty one takes everything.

    Raises InvalidInput with the position of what is wrong. A field that a record lacks fulfils `!=` only;
    of a repeated field one element is enough, and `!=` means that none is equal. `require_visible` raises
    for a field whose value is not for the one who asks: the rows that match would tell it.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidInput(f"the filter is longer than {MAX_BYTES} bytes; make it shorter")
    conditions = list(_conditions(list(_tokens(text)), record, require_visible))
    return lambda source, message: all(holds(source, message) for holds in conditions)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    # Of the first character, counted from 1.
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while True:
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            at = position + len(text[position:]) - len(text[position:].lstrip())
            raise _wrong(at + 1, f"{text[at : at + 20]!r} is no field, comparison or value")
        yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1)
        if found.lastgroup == "end":
            return
        position = found.end()


def _conditions(
    tokens: list[_Token], record: Descriptor, require_visible: Callable[[str], None]
) -> Iterator[Predicate]:
    """Reads `condition AND condition ...`; the last token is the end."""
    if tokens[0].kind == "end":
        return
    place = 0
    for count in range(1, MAX_CONDITIONS + 1):
        name, compare, value = (tokens[min(place + offset, len(tokens) - 1)] for offset in range(3))
        _require(name, "name", "a field")
        _require(compare, "compare", "one of = != < <= > >= :")
        if name.text in record.fields_by_name:
            require_visible(name.text)
        yield _condition(record, name, compare, value)
        joint = tokens[place + 3]
        if joint.kind == "end":
            return
        if joint.text != "AND":
            raise _wrong(joint.position, f"expected AND or the end, found {joint.text[:20]!r}")
        if count == MAX_CONDITIONS:
            raise _wrong(joint.position, f"more than {MAX_CONDITIONS} conditions")
        place += 4


def _require(token: _Token, kind: str, what: str) -> None:
    if token.kind != kind:
        found = repr(token.text[:20]) if token.kind != "end" else "the end"
        raise _wrong(token.position, f"expected {what}, found {found}")


def _wrong(position: int, what: str) -> InvalidInput:
    return InvalidInput(
        f'filter, character {position}: {what}; write conditions such as `name = "text" AND count > 3`'
    )


def _condition(record: Descriptor, name: _Token, compare: _Token, value: _Token) -> Predicate:
    field = record.fields_by_name.get(name.text)
    form = _TEXT if field is None and name.text == SOURCE else _form(field) if field is not None else None
    if form is None:
        known = ", ".join(sorted({SOURCE, *(one.name for one in record.fields if _form(one) is not None)}))
        raise _wrong(name.position, f"{name.text[:40]!r} is nothing that can be compared; there are {known}")
    if compare.text not in form.compares:
        raise _wrong(compare.position, f"{name.text} takes {' '.join(sorted(form.compares))} only")
    try:
        wanted = form.read(value)
    except (KeyError, ValueError):
        raise _wrong(value.position, f"{name.text} is compared with {form.literal}") from None
    holds = _COMPARE[compare.text]
    if field is None:
        return lambda source, message: holds(source, wanted)
    return _on_field(field, form, holds, wanted, negated=compare.text == "!=")


def _on_field(
    field: FieldDescriptor, form: "_Form", holds: Callable[[Any, Any], bool], wanted: Any, *, negated: bool
) -> Predicate:
    name = field.name
    if is_repeated(field):
        every = all if negated else any
        return lambda source, message: every(holds(form.key(one), wanted) for one in getattr(message, name))
    if field.has_presence:
        return lambda source, message: (
            holds(form.key(getattr(message, name)), wanted) if message.HasField(name) else negated
        )
    return lambda source, message: holds(form.key(getattr(message, name)), wanted)


@dataclass(frozen=True)
class _Form:
    """How values of a field are written in a filter and compared."""

    literal: str
    compares: frozenset[str]
    # Raises ValueError or KeyError when the token is no such literal.
    read: Callable[[_Token], Any]
    # What is compared of a field's value.
    key: Callable[[Any], Any] = lambda value: value


def _form(field: FieldDescriptor) -> _Form | None:
    """None when fields of this type cannot be compared."""
    if field.message_type is not None:
        return _MOMENTS.get(field.message_type.full_name)
    if field.enum_type is not None:
        values = {value.name: value.number for value in field.enum_type.values}
        return _Form(
            f"one of {', '.join(list(values)[:20])}",
            frozenset({"=", "!="}),
            lambda token: values[_read_text(token) if token.kind == "text" else token.text],
        )
    return _SCALARS.get(field.cpp_type) if field.type != FieldDescriptor.TYPE_BYTES else None


def _read_text(token: _Token) -> str:
    if token.kind != "text":
        raise ValueError(token.text)
    return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)


def _read_number(token: _Token) -> float:
    if token.kind != "number":
        raise ValueError(token.text)
    return int(token.text) if token.text.lstrip("-").isdigit() else float(token.text)


def _read_moment(kind: type[Timestamp] | type[Duration]) -> Callable[[_Token], tuple[int, int]]:
    def read(token: _Token) -> tuple[int, int]:
        moment = kind()
        moment.FromJsonString(_read_text(token))
        return moment.seconds, moment.nanos

    return read


_TEXT = _Form('a quoted text such as "text"', frozenset(_COMPARE), _read_text)
_NUMBER = _Form("a number such as 1.5", frozenset(_COMPARE) - {":"}, _read_number)
_TRUTH = _Form(
    "true or false", frozenset({"=", "!="}), lambda token: {"true": True, "false": False}[token.text]
)
_SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: _TEXT,
    FieldDescriptor.CPPTYPE_BOOL: _TRUTH,
    FieldDescriptor.CPPTYPE_INT32: _NUMBER,
    FieldDescriptor.CPPTYPE_INT64: _NUMBER,
    FieldDescriptor.CPPTYPE_UINT32: _NUMBER,
    FieldDescriptor.CPPTYPE_UINT64: _NUMBER,
    FieldDescriptor.CPPTYPE_FLOAT: _NUMBER,
    FieldDescriptor.CPPTYPE_DOUBLE: _NUMBER,
}
_MOMENTS = {
    kind.DESCRIPTOR.full_name: _Form(
        literal, frozenset(_COMPARE) - {":"}, _read_moment(kind), lambda value: (value.seconds, value.nanos)
    )
    for kind, literal in (
        (Timestamp, 'a quoted time such as "2026-01-31T12:00:00Z"'),
        (Duration, 'a quoted duration such as "1.5s"'),
    )
}
