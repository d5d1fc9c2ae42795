"""Which certificate of an identity came after which, and whether two holders are at work with them.

A holder goes on from one certificate to the next and does not go back. Whoever has a copied key does not know
the next one, and goes on with the old one or with a next one of their own.
"""

import sqlite3
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.profiles import profile_of
from certs.state import State
from telltale.identity.keys import thumbprint

# A holder's own calls with the certificate before may still be on their way when it has begun with the next:
# for so long at most,
OVERLAP = timedelta(minutes=1)
# and for this share of a certificate's life, or a brief one would be over before a copy of it is found.
_OVERLAP_SHARE = 0.25
# Certificates of one line that are remembered, and read when an old one is used. An honest holder renews at
# half-life and has three that live.
_MOST_OF_A_LINE = 50

_SCHEMA = """
CREATE TABLE IF NOT EXISTS certificate_lineage (
    thumbprint BLOB PRIMARY KEY,
    line TEXT NOT NULL,
    parent BLOB,                    -- thumbprint of the certificate before it
    issue_time REAL NOT NULL,       -- Unix seconds, as all times here
    first_use_time REAL,            -- NULL until it was used here
    abandoned INTEGER NOT NULL,     -- whether another holder's was used after it: 0 or 1
    expire_time REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificate_lineage_by_line ON certificate_lineage (line);
CREATE TABLE IF NOT EXISTS certificate_line (
    line TEXT PRIMARY KEY,
    current BLOB NOT NULL           -- thumbprint of the certificate that was used last
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class _Known:
    thumbprint: bytes
    parent: bytes | None
    first_use: float | None
    abandoned: bool


class Lineage:
    """The lineage of one authority's certificates. Every method blocks; any thread and process may call."""

    def __init__(self, directory: Path) -> None:
        self._state = State(directory, _SCHEMA)

    def use(self, leaf: x509.Certificate, now: float | None = None) -> bool:
        """Notes that a certificate is used, and returns whether two holders are at work by that.

        Once going back to an older one proves nothing: a host may have come back from a copy. Two are at work
        when what was left behind then is used again.
        """
        der = leaf.public_bytes(Encoding.DER)
        mine, now = thumbprint(der), time.time() if now is None else now
        with self._state.connection() as connection:
            if _is_current(connection, mine):
                return False
        with self._state.transaction() as connection:
            line = _line(connection, leaf, mine)
            current = _current(connection, line)
            if _known(connection, mine) is None:
                # The first of an enrolment. An agent that enrols again goes on from what it had.
                _insert(connection, leaf, mine, line, current)
            connection.execute(
                "UPDATE certificate_lineage SET first_use_time = coalesce(first_use_time, ?) "
                "WHERE thumbprint = ?",
                (now, mine),
            )
            return _go_on(connection, line, mine, current, now, _overlap(leaf))

    def follow(self, parent: x509.Certificate, leaf: bytes) -> None:
        """Remembers a certificate in DER that was issued to the holder of another, by whose use it was."""
        before = thumbprint(parent.public_bytes(Encoding.DER))
        with self._state.transaction() as connection:
            _forget(connection, time.time())
            line = _line(connection, parent, before)
            _insert(connection, x509.load_der_x509_certificate(leaf), thumbprint(leaf), line, before)
            _bound(connection, line)


def _overlap(leaf: x509.Certificate) -> float:
    """Seconds for which the certificate may still be used beside the next one."""
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return min(OVERLAP, life * _OVERLAP_SHARE).total_seconds()


def _go_on(
    connection: sqlite3.Connection, line: str, mine: bytes, current: bytes | None, now: float, overlap: float
) -> bool:
    two = False
    if current is not None:
        latest = _known(connection, current)
        if latest is not None and latest.parent == mine and _is_recent(latest, now, overlap):
            # By far the most uses of an older one: so much needs no more to be read.
            return False
        remembered = _remembered(connection, line)
        path, before = _ancestry(remembered, mine), _ancestry(remembered, current)
        # What each of the two has for itself, from the latest back to what they have in common.
        own, theirs = _without(path, before), _without(before, path)
        if theirs and _is_recent(theirs[-1], now, overlap):
            return False
        # Whoever goes back to what both have in common uses that again.
        own = own or path[:1]
        two = any(known.abandoned for known in own)
        if two or theirs:
            _mark(connection, own, abandoned=False)
            _mark(connection, before[:1], abandoned=True)
    connection.execute("INSERT OR REPLACE INTO certificate_line VALUES (?, ?)", (line, mine))
    return two


def _is_recent(known: _Known, now: float, overlap: float) -> bool:
    return known.first_use is None or now - known.first_use < overlap


def _without(some: list[_Known], others: list[_Known]) -> list[_Known]:
    names = {known.thumbprint for known in others}
    return [known for known in some if known.thumbprint not in names]


def _mark(connection: sqlite3.Connection, certificates: list[_Known], *, abandoned: bool) -> None:
    connection.executemany(
        "UPDATE certificate_lineage SET abandoned = ? WHERE thumbprint = ?",
        [(int(abandoned), known.thumbprint) for known in certificates],
    )


def _is_current(connection: sqlite3.Connection, mine: bytes) -> bool:
    """By far the most uses: nothing is to be noted."""
    found = connection.execute(
        "SELECT 1 FROM certificate_line JOIN certificate_lineage USING (line) "
        "WHERE thumbprint = ? AND current = thumbprint",
        (mine,),
    )
    return found.fetchone() is not None


def _line(connection: sqlite3.Connection, leaf: x509.Certificate, mine: bytes) -> str:
    """Whose certificates stand in one line: an identity's. Who serves may run as several replicas with one
    identity: there each enrolment begins a line of its own."""
    row = connection.execute("SELECT line FROM certificate_lineage WHERE thumbprint = ?", (mine,)).fetchone()
    if row is not None:
        return str(row[0])
    profile = profile_of(leaf)
    return mine.hex() if profile.dns_names else str(profile.spiffe_id)


def _current(connection: sqlite3.Connection, line: str) -> bytes | None:
    row = connection.execute("SELECT current FROM certificate_line WHERE line = ?", (line,)).fetchone()
    return bytes(row[0]) if row is not None else None


def _known(connection: sqlite3.Connection, mine: bytes) -> _Known | None:
    row = connection.execute(
        "SELECT thumbprint, parent, first_use_time, abandoned FROM certificate_lineage WHERE thumbprint = ?",
        (mine,),
    ).fetchone()
    return None if row is None else _Known(row[0], row[1], row[2], bool(row[3]))


def _remembered(connection: sqlite3.Connection, line: str) -> dict[bytes, _Known]:
    """All certificates of a line, by thumbprint."""
    rows = connection.execute(
        "SELECT thumbprint, parent, first_use_time, abandoned FROM certificate_lineage WHERE line = ?",
        (line,),
    )
    return {row[0]: _Known(row[0], row[1], row[2], bool(row[3])) for row in rows}


def _ancestry(remembered: dict[bytes, _Known], mine: bytes) -> list[_Known]:
    """A certificate and those before it that are still remembered."""
    found: list[_Known] = []
    wanted: bytes | None = mine
    while wanted is not None and (known := remembered.get(wanted)) is not None:
        found.append(known)
        wanted = known.parent
    return found


def _insert(
    connection: sqlite3.Connection, leaf: x509.Certificate, mine: bytes, line: str, parent: bytes | None
) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO certificate_lineage VALUES (?, ?, ?, ?, NULL, 0, ?)",
        (mine, line, parent, time.time(), leaf.not_valid_after_utc.timestamp()),
    )


def _forget(connection: sqlite3.Connection, now: float) -> None:
    # Nobody can show an expired certificate.
    connection.execute("DELETE FROM certificate_lineage WHERE expire_time < ?", (now,))
    connection.execute(
        "DELETE FROM certificate_line WHERE current NOT IN (SELECT thumbprint FROM certificate_lineage)"
    )


def _bound(connection: sqlite3.Connection, line: str) -> None:
    """Of too many the line forgets those that were never used first."""
    connection.execute(
        "DELETE FROM certificate_lineage WHERE thumbprint IN (SELECT thumbprint FROM certificate_lineage"
        " WHERE line = ? AND thumbprint NOT IN (SELECT current FROM certificate_line)"
        " ORDER BY first_use_time IS NOT NULL DESC, issue_time DESC LIMIT -1 OFFSET ?)",
        (line, _MOST_OF_A_LINE),
    )
