"""How a detection is declared, and what a rule may know.

A detection is one file under `detections/`: a rule with its numbers, whom it is for, and examples that
must and must not be found. The engine owns state, time and publishing; a rule only tells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

import duckdb

from services.analysis.signals import Signal
from services.analysis.state import State
from services.analysis.thresholds import Thresholds
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.contract.product import Contract
from telltale.identity.distrust import Distrust


class Wrong(Enum):
    """What can be wrong with a part of a stream, whoever noticed it."""

    MALFORMED = "malformed"
    PERMISSION = "permission"
    FOREIGN_SOURCE = "foreign_source"
    SIGNATURE = "signature"
    FORK = "fork"
    BROKEN_CHAIN = "broken_chain"
    STALE_EPOCH = "stale_epoch"
    FUTURE = "future"
    UNKNOWN_SCHEMA = "unknown_schema"
    TOO_LARGE = "too_large"
    DISTRUSTED = "distrusted"
    UNAVAILABLE = "unavailable"
    LOG_REPLACED = "log_replaced"
    RETENTION = "retention"
    DAMAGED = "damaged"

    @classmethod
    def named(cls, name: str) -> "Wrong":
        """By a RefusalReason's or a GapReason's name without its prefix; MALFORMED when unknown."""
        try:
            return cls(name.lower())
        except ValueError:
            return cls.MALFORMED


@dataclass(frozen=True)
class Fault:
    """A part of a product's stream that does not hold or is missing. `source` is what it claims."""

    wrong: Wrong
    product: str
    source: str
    # Received time, in microseconds.
    at: int
    # What is wrong, in one sentence.
    detail: str
    evidence: tuple[tuple[str, str], ...] = ()
    occurrences: int = 1
    # Who handed it in, proven; empty when it was found on a stream.
    peer: str = ""
    run: str = ""
    origin: Origin = Origin.ORIGIN_UNSPECIFIED


@dataclass(frozen=True)
class View:
    """What a rule may look at: the state, within the running transaction, and the thresholds."""

    state: State
    detection: "Detection"
    thresholds: Thresholds
    # Whom the mesh distrusts.
    distrust: Distrust

    @property
    def sql(self) -> duckdb.DuckDBPyConnection:
        return self.state.sql


class Rule:
    """What a detection looks for. Each method tells of conditions that hold or have ended; order matters."""

    # Tables of its own, made when the state is opened.
    tables: Sequence[str] = ()

    def reads(self, contract: Contract) -> bool:
        """Whether it wants the records of a product."""
        return False

    def records(self, contract: Contract, view: View) -> Iterable[Signal]:
        """Looks at new records of a product in the view `observed` (see records.py)."""
        return ()

    def fault(self, fault: Fault, view: View) -> Iterable[Signal]:
        """Looks at something that is wrong with a stream."""
        return ()

    def clock(self, now: int, view: View) -> Iterable[Signal]:
        """Looks at what did not arrive. `now` is the wall clock, in microseconds."""
        return ()

    def words(self, view: View) -> Iterable[Signal]:
        """Looks at what the authorities of the mesh say of whom they distrust."""
        return ()


@dataclass(frozen=True)
class Word:
    """A step of an example: the trust domain of its source distrusts it, or lifts that."""

    lifted: bool = False


@dataclass(frozen=True)
class Example:
    """A story that is told to the whole engine, and what must come of it.

    told: steps of one source in the order of their time; each is (seconds since the start, what). What is
    the records of a batch of the product as dictionaries; or what is wrong with the next batch; or the
    name of another product, of which an empty batch comes; or a word on the source's identity; or None:
    time passes and nothing comes.
    finds: (state, entity, part) of every revision that must be found, in order; empty for a negative example.
    """

    name: str
    told: Sequence[tuple[float, Sequence[Mapping[str, Any]] | Wrong | Word | str | None]]
    finds: Sequence[tuple[str, str, str]] = ()
    product: str = "servers.disk_usage"
    source: str = "spiffe://servers.telltale.internal/agent/web1"


@dataclass(frozen=True)
class Detection:
    """Something that analysis looks for."""

    # In snake case; part of every finding's id.
    name: str
    # Raised whenever the rule would find other things in the same records.
    version: int
    verdict: Verdict
    severity: Severity
    # What it finds and why that matters, in one sentence.
    purpose: str
    rule: Rule
    examples: Sequence[Example]
    # MITRE ATT&CK technique that looks like this.
    technique: str = ""
    # A condition that was not seen for this long has ended; None: the rule itself tells the end.
    quiet: timedelta | None = None
