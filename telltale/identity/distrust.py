"""Whom the trust domains of the mesh distrust, from when to when, as this process has heard it.

An entry covers what its identity says from `since` until `until`, and for ever what is said with a
certificate or a token that was issued before `until`: a stolen key does not come back with the lift.
"""

import contextlib
from asyncio import Event
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from telltale.errors import Unauthenticated
from telltale.naming import SpiffeId


@dataclass(frozen=True)
class Entry:
    """One word on one identity. Times are in UTC; `until` is None while it holds."""

    spiffe_id: SpiffeId
    since: datetime
    until: datetime | None
    reason: str
    # Who said it, and when.
    by: str
    issued: datetime

    def covers_now(self, issued: datetime) -> bool:
        """Whether a certificate or token that was issued then proves nobody now.

        No clock is asked: the word begins when it is heard, whatever this machine says the time is.
        """
        return self.until is None or issued < self.until

    def covers(self, at: datetime, issued: datetime) -> bool:
        """Whether what was said at that time, with a certificate that was issued then, is not believed."""
        return self.since <= at and (self.until is None or at < self.until or issued < self.until)

    def __str__(self) -> str:
        since = f"{self.spiffe_id} is distrusted since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{since} ({self.reason})" if self.reason else since


@dataclass(frozen=True)
class DistrustList:
    """Everything that one trust domain says, as it was signed."""

    issuer: str
    # Grows with every change; a lower one is older, whenever it was signed.
    sequence: int
    signed: datetime
    entries: tuple[Entry, ...]
    # What was signed and what it is about, byte for byte, to be passed on.
    statement: str
    encoded: bytes

    @property
    def age(self) -> float:
        """Seconds since it was signed."""
        return max(0.0, (datetime.now(UTC) - self.signed).total_seconds())


class Distrust:
    """The lists that were heard. Questions may come from any thread; `take` belongs to one."""

    def __init__(self) -> None:
        self._lists: dict[str, DistrustList] = {}
        # Replaced as a whole with every change, so that nobody sees half of one.
        self._entries: Mapping[SpiffeId, tuple[Entry, ...]] = MappingProxyType({})
        self._listeners: dict[Event, bool] = {}

    @property
    def lists(self) -> Sequence[DistrustList]:
        """The latest list of each trust domain, by name."""
        return [self._lists[issuer] for issuer in sorted(self._lists)]

    @property
    def entries(self) -> Sequence[Entry]:
        """Every word of every trust domain."""
        return [entry for entries in self._entries.values() for entry in entries]

    def of(self, issuer: str) -> DistrustList | None:
        """What a trust domain says, if it was ever heard."""
        return self._lists.get(issuer)

    def take(self, heard: DistrustList) -> bool:
        """Takes a list whose signature holds, unless a later one is known; returns whether it was taken."""
        known = self._lists.get(heard.issuer)
        if known is not None and (heard.sequence, heard.signed) <= (known.sequence, known.signed):
            return False
        self._lists[heard.issuer] = heard
        changed = heard.entries != (known.entries if known is not None else ())
        if changed:
            entries: dict[SpiffeId, tuple[Entry, ...]] = {}
            for each in self._lists.values():
                for entry in each.entries:
                    entries[entry.spiffe_id] = (*entries.get(entry.spiffe_id, ()), entry)
            self._entries = MappingProxyType(entries)
        for listener, of_all in self._listeners.items():
            if changed or of_all:
                listener.set()
        return True

    @contextlib.contextmanager
    def listening(self, *, of_all: bool = False) -> Iterator[Event]:
        """An event that is set whenever a word changed; with `of_all` also when a list was signed anew.

        Whoever waits for it clears it.
        """
        listener = Event()
        self._listeners[listener] = of_all
        try:
            yield listener
        finally:
            del self._listeners[listener]

    def require(self, spiffe_id: SpiffeId, issued: datetime) -> None:
        """Raises Unauthenticated when a certificate or token that was issued then proves nobody now."""
        for entry in self._entries.get(spiffe_id, ()):
            if entry.covers_now(issued):
                raise Unauthenticated(f"{entry}; {_REMEDY if entry.until is None else _OLD_KEY}")

    def name(self, spiffe_id: SpiffeId) -> Entry | None:
        """The word that holds on an identity, whatever key it has."""
        return next((one for one in self._entries.get(spiffe_id, ()) if one.until is None), None)

    def at(self, spiffe_id: SpiffeId, at: datetime, issued: datetime) -> Entry | None:
        """Why what was said at that time, with a certificate that was issued then, is not believed."""
        entries = self._entries.get(spiffe_id, ())
        return next((one for one in entries if one.covers(at, issued)), None)

    def lifted(self, spiffe_id: SpiffeId) -> datetime | None:
        """When the last word on an identity was lifted: its new certificates begin then or later."""
        entries = self._entries.get(spiffe_id, ())
        return max((one.until for one in entries if one.until is not None), default=None)


_REMEDY = (
    "set it up anew, then lift it with `telltale distrust SPIFFE-ID --lift` and enrol with a new join token"
)
_OLD_KEY = "that was lifted for new keys only: enrol with a new join token"
