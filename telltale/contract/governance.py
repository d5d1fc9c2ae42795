"""The rules that every data product of the mesh keeps, computed from its contract.

One table for all domains. Some rules are kept already when a contract is read (`rules.py`): what breaks
them is no contract. The others are checked here, by the gateway at registration and by `telltale governance`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from itertools import islice
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor, EnumDescriptor

from telltale import naming
from telltale.api.mesh.v1.product_pb2 import Classification, Role, Status
from telltale.contract.classified import Place, inner, value_of
from telltale.contract.fields import field_options, inside
from telltale.contract.image import Image
from telltale.contract.product import Contract
from telltale.contract.shared import is_shared
from telltale.errors import InvalidInput

# How long data may be kept at most; what harms nobody may be kept for ever. Reasons: decision 0022.
LONGEST = {
    Classification.CLASSIFICATION_CONFIDENTIAL: timedelta(days=400),
    Classification.CLASSIFICATION_PERSONAL: timedelta(days=100),
}
_A_DAY = timedelta(days=1)
# Violations that one refusal spells out.
_SPELLED = 5

_MAIL = r"[^@\s]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
_SUPPORT = re.compile(rf"({_MAIL}|#[A-Za-z0-9._-]+|https://[^\s/]+\S*)")
_PRODUCT_NAME = re.compile(r"\b[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\b")
# Parts that a field plays when it can name a person, or an account that belongs to one.
_NAMING = {Role.ROLE_ENTITY_ACCOUNT, Role.ROLE_ENTITY_ADDRESS, Role.ROLE_ENTITY_PRINCIPAL}
# Conventions for the same: `user.id`, `process.real_user.name`.
_OF_A_USER = re.compile(r"(^|[._])user\.")
_MEASURED = {Role.ROLE_COUNTER, Role.ROLE_GAUGE}


class Kept(Enum):
    """Where it is seen that a rule is kept."""

    READING = "a contract that breaks it cannot be read"
    REGISTRATION = "a registration that breaks it is refused"
    COMMAND = "only `telltale governance` tells of it"
    CALL = "a call that breaks it is refused"


@dataclass(frozen=True)
class Violation:
    """One place where a product breaks a rule."""

    product: str
    rule: str
    mandatory: bool
    # What breaks it: full name of a field, message, enum value or service, or a rule of a policy.
    element: str
    wrong: str
    cure: str

    def __str__(self) -> str:
        return f"{self.product} breaks the rule `{self.rule}`: {self.element} {self.wrong}; {self.cure}"


# What is wrong: element, in which way, and what to do.
Fault: TypeAlias = tuple[str, str, str]
Check: TypeAlias = Callable[[Contract, Image], Iterable[Fault]]


@dataclass(frozen=True)
class Rule:
    """One rule. A mandatory one that is broken keeps a product out of the mesh."""

    name: str
    demands: str
    kept: Kept
    mandatory: bool = True
    # None where others look: see `kept`.
    check: Check | None = None

    def violation(self, product: str, fault: Fault) -> Violation:
        return Violation(product, self.name, self.mandatory, *fault)


def violations(contracts: Iterable[Contract], image: Image) -> Iterator[Violation]:
    """Everything that is wrong with these contracts, whose comments the image has."""
    for contract in contracts:
        for rule in RULES:
            if rule.check is not None:
                for fault in rule.check(contract, image):
                    yield rule.violation(contract.name, fault)


def require(contracts: Iterable[Contract], image: Image) -> None:
    """Raises InvalidInput with what is wrong when a mandatory rule is broken."""
    broken = (str(one) for one in violations(contracts, image) if one.mandatory)
    spelled = list(islice(broken, _SPELLED))
    if spelled:
        more = " (and more)" if next(broken, None) else ""
        raise InvalidInput(f"{'. '.join(spelled)}{more}")


def _support(contract: Contract, image: Image) -> Iterator[Fault]:
    support = contract.options.support.strip()
    if not _SUPPORT.fullmatch(support):
        cure = "name where consumers get help: a mail address, a channel such as #team, or an https URL"
        yield contract.service, f"has the support {support[:100]!r}", cure


def _successor(contract: Contract, image: Image) -> Iterator[Fault]:
    named = set(_PRODUCT_NAME.findall(contract.options.purpose)) - {contract.name}
    if contract.options.status == Status.STATUS_DEPRECATED and not named:
        cure = "name the product that consumers should go to, such as `servers.cpu`, in its purpose"
        yield contract.service, "is deprecated and names no successor", cure


def _heard(contract: Contract, image: Image) -> Iterator[Fault]:
    freshness = contract.options.freshness.ToTimedelta()
    if freshness > _A_DAY:
        cure = "let its sources speak once a day at least, or nobody notices for long that one fell silent"
        yield contract.service, f"may be silent for {_spelled(freshness)}", cure


def _retention(contract: Contract, image: Image) -> Iterator[Fault]:
    options = contract.options
    freshness, retention = options.freshness.ToTimedelta(), options.retention.ToTimedelta()
    if retention < freshness:
        cure = "keep batches until the next one is due"
        yield contract.service, f"keeps {_spelled(retention)}, less than its freshness", cure
    longest = LONGEST.get(options.classification)
    if longest is not None and retention > longest:
        word = _word(options.classification)
        cure = f"keep what is {word} for {longest.days} days at most"
        yield contract.service, f"keeps {word} data for {_spelled(retention)}", cure


def _classification(contract: Contract, image: Image) -> Iterator[Fault]:
    highest = max(place.classification for place in contract.places)
    if highest < contract.options.classification:
        cure = f"classify its fields, or the product as {_word(highest)} as they are"
        yield contract.service, f"is {_word(contract.options.classification)}, and no field of it is", cure


def _people(contract: Contract, image: Image) -> Iterator[Fault]:
    for place in contract.places:
        options = field_options(place.field)
        may_name = _NAMING.intersection(options.roles) or _OF_A_USER.search(options.semconv)
        if may_name and not options.classification:
            cure = "say which it is; personal where it names or leads to a person"
            yield place.field.full_name, "can name somebody and states no classification", cure


def _comments(contract: Contract, image: Image) -> Iterator[Fault]:
    for name in _documented(contract):
        if not image.comment(name).strip():
            yield name, "has no comment", "write above it what it is, in the owner's words"


def _documented(contract: Contract) -> Iterator[str]:
    """Full names of all that consumers read of a product; what all products share is explained elsewhere."""
    service = contract.frame.file.pool.FindServiceByName(contract.service)
    yield service.full_name
    yield from (method.full_name for method in service.methods)
    batch = inside(contract.frame, "batches")
    messages = {message.full_name: message for message in (contract.frame, batch, contract.records)}
    if contract.listing is not None:
        entry = inside(contract.listing, "entries")
        messages |= {contract.listing.full_name: contract.listing, entry.full_name: entry}
    yield from messages
    parts: dict[str, Descriptor] = {contract.record.full_name: contract.record}
    enums: dict[str, EnumDescriptor] = {}
    # A message that is used in two places is listed once.
    fields: dict[str, Place] = {place.field.full_name: place for place in contract.places}
    for place in fields.values():
        below = inner(place.field)
        if below is not None:
            parts[below.full_name] = below
        enum = value_of(place.field).enum_type
        if enum is not None and not is_shared(enum.file.name):
            enums[enum.full_name] = enum
    yield from parts
    yield from fields
    for enum in enums.values():
        yield enum.full_name
        # By the rules of protobuf a value is named beside its enum, not below it. Zero says nothing.
        scope = enum.full_name.rpartition(".")[0]
        yield from (f"{scope}.{value.name}" for value in enum.values if value.number != 0)


def _units(contract: Contract, image: Image) -> Iterator[Fault]:
    for place in contract.places:
        options = field_options(place.field)
        if _MEASURED.intersection(options.roles) and not options.unit:
            cure = "state the unit in UCUM, such as `By` or `s`; `1` for a ratio"
            yield place.field.full_name, "is measured in no unit", cure


def _limitations(contract: Contract, image: Image) -> Iterator[Fault]:
    if not any(limitation.strip() for limitation in contract.options.limitations):
        cure = "say what the data cannot tell, before a consumer finds out"
        yield contract.service, "states no limitation", cure


def _open(contract: Contract, image: Image) -> Iterator[Fault]:
    if contract.options.open_to_all_trust_domains and contract.domain != naming.PLATFORM:
        cure = "leave `open_to_all_trust_domains` out; consumers honour it for the platform's products only"
        yield contract.service, "is open to the sources of every trust domain", cure


def _word(classification: Classification) -> str:
    return Classification.Name(classification).removeprefix("CLASSIFICATION_").lower()


def _spelled(span: timedelta) -> str:
    return f"{span.days} days" if span >= 2 * _A_DAY else f"{span.total_seconds():g} seconds"


# The rules that look at more than a contract: at what the owner's policy permits.
POLICY = Rule("policy", "the owner's policy permits no more than the classification does", Kept.COMMAND)

RULES = (
    Rule("place", "its name, its file and its package are of one domain, that of its owner", Kept.READING),
    Rule("owner", "the team that owns it is named", Kept.READING),
    Rule(
        "support",
        "consumers get help at a mail address, a channel or a URL",
        Kept.REGISTRATION,
        check=_support,
    ),
    Rule("purpose", "the question that it answers is said", Kept.READING),
    Rule("limitations", "what it cannot tell is said", Kept.COMMAND, mandatory=False, check=_limitations),
    Rule("promise", "kind, semantic version and status are stated", Kept.READING),
    Rule(
        "successor",
        "a deprecated product's purpose names the product to go to",
        Kept.REGISTRATION,
        check=_successor,
    ),
    Rule("shape", "methods, messages, time and key are those of its kind", Kept.READING),
    Rule("freshness", "how long a living source may be silent is stated", Kept.READING),
    Rule("daily", "a living source speaks once a day at least", Kept.COMMAND, mandatory=False, check=_heard),
    Rule(
        "retention",
        "what is kept is kept for its freshness at least, confidential data for "
        f"{LONGEST[Classification.CLASSIFICATION_CONFIDENTIAL].days} days and personal data for "
        f"{LONGEST[Classification.CLASSIFICATION_PERSONAL].days} days at most",
        Kept.REGISTRATION,
        check=_retention,
    ),
    Rule(
        "classification",
        "the product is classified as its highest field, no lower and no higher",
        Kept.REGISTRATION,
        check=_classification,
    ),
    Rule(
        "people",
        "a field that can name a person, an account or an address states its classification",
        Kept.REGISTRATION,
        check=_people,
    ),
    Rule(
        "comments",
        "the service, its methods, every message, field and enum value has a comment",
        Kept.REGISTRATION,
        check=_comments,
    ),
    Rule("units", "counters and gauges have a unit", Kept.REGISTRATION, check=_units),
    Rule(
        "open", "only the platform's products are open to every trust domain", Kept.REGISTRATION, check=_open
    ),
    POLICY,
    Rule("tokens", "a token lives 15 minutes at most", Kept.CALL),
)
