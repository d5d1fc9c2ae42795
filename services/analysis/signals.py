"""What a rule tells: that a condition holds for a subject, or no longer does."""

import hashlib
from dataclasses import dataclass

from telltale.api.analysis.v1.findings_pb2 import EntityKind
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.errors import InvalidInput
from telltale.naming import SpiffeId

# Of any name in a finding; the contract promises it.
MAX_NAME = 1_000
_AGENT = "/agent/"


@dataclass(frozen=True)
class Subject:
    """What a condition is about. With the detection and its start it names a finding."""

    entity_kind: EntityKind
    entity: str
    part: str = ""
    host: str = ""
    product: str = ""
    source: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        # Records and refused batches name whatever they like, at any length.
        for name in ("entity", "part", "host", "product", "source", "run"):
            object.__setattr__(self, name, _bounded(getattr(self, name)))

    @classmethod
    def of_source(cls, source: str, *, product: str = "", part: str = "", run: str = "") -> "Subject":
        """A source as such: the host of a host agent, otherwise the identity itself."""
        host = host_of(source)
        kind = EntityKind.ENTITY_KIND_HOST if host else EntityKind.ENTITY_KIND_PRINCIPAL
        return cls(kind, host or source, part=part, host=host, product=product, source=source, run=run)

    @classmethod
    def of_product(cls, product: str, part: str = "") -> "Subject":
        """A data product as such."""
        return cls(EntityKind.ENTITY_KIND_PRODUCT, product, part=part, product=product)


@dataclass(frozen=True)
class Signal:
    """A rule's word that a condition holds for a subject, or no longer does. Times are in microseconds."""

    subject: Subject
    holds: bool
    # When the condition began; the same through all signals of one condition.
    since: int
    # Event time that the signal rests on.
    at: int
    title: str
    evidence: tuple[tuple[str, str], ...] = ()
    value: float | None = None
    threshold: float | None = None
    unit: str = ""
    # How often the condition was seen since the signal before.
    occurrences: int = 1
    origin: Origin = Origin.ORIGIN_UNSPECIFIED


def host_of(source: str) -> str:
    """The host that a source's name ends with when it is a host agent; empty otherwise."""
    try:
        path = SpiffeId.parse(source).path
    except InvalidInput:
        return ""
    return path.removeprefix(_AGENT) if path.startswith(_AGENT) else ""


def _bounded(name: str) -> str:
    """A name of at most MAX_NAME characters; one that was longer ends with its digest and stays itself."""
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME - len(digest) - 1]}~{digest}"
