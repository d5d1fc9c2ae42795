"""Which policy groups the holder of a certificate is in, and until when others may follow the certificate.

A session begins with a certificate that a join token or a login has brought, and goes on with those
that renew it. Certificates without groups and without an end have none.
"""

import json
import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from certs.state import State
from telltale.errors import LimitExceeded, Unauthenticated
from telltale.identity.keys import thumbprint

# Renewals at half-life need a handful; a holder who asks for more is broken or worse.
_MOST_CERTIFICATES = 200

_SCHEMA = """
CREATE TABLE IF NOT EXISTS certificate_session (
    thumbprint BLOB PRIMARY KEY,
    session BLOB NOT NULL,          -- thumbprint of its first certificate
    groups TEXT NOT NULL,           -- JSON
    end_time REAL,                  -- Unix seconds; NULL where it ends with its last certificate
    expire_time REAL NOT NULL       -- of the certificate
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificate_session_by_session ON certificate_session (session);
"""


@dataclass(frozen=True)
class Session:
    """What a certificate stands in."""

    id: bytes
    groups: tuple[str, ...]
    # None where only the certificates end.
    ends: datetime | None = None


class Sessions:
    """The sessions of one authority. Every method blocks; any thread and process may call."""

    def __init__(self, directory: Path) -> None:
        self._state = State(directory, _SCHEMA)

    def of(self, certificate: bytes) -> Session | None:
        """The session of a certificate in DER."""
        with self._state.connection() as connection:
            row = connection.execute(
                "SELECT session, groups, end_time FROM certificate_session WHERE thumbprint = ?",
                (thumbprint(certificate),),
            ).fetchone()
        if row is None:
            return None
        session, groups, end_time = row
        ends = None if end_time is None else datetime.fromtimestamp(end_time, UTC)
        return Session(session, tuple(json.loads(groups)), ends)

    def end(self, session: Session) -> None:
        """Forgets a session: of no certificate of it anything is known any more."""
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM certificate_session WHERE session = ?", (session.id,))

    def follow(self, session: Session, leaf: bytes) -> None:
        """Lets a session go on with the next certificate. Raises Unauthenticated once it has ended."""
        with self._state.transaction() as connection:
            _forget_expired(connection)
            (held,) = connection.execute(
                "SELECT count(*) FROM certificate_session WHERE session = ?", (session.id,)
            ).fetchone()
            if not held:
                raise Unauthenticated("this session has ended; log in again with `telltale login`")
            if held >= _MOST_CERTIFICATES:
                raise LimitExceeded(
                    "certificates of a session",
                    f"this session has {held} certificates; begin a new one, or wait until some have expired",
                )
            _insert(connection, session, leaf)


def begin(
    connection: sqlite3.Connection, leaf: bytes, groups: Collection[str], ends: datetime | None
) -> None:
    """Begins a session with its first certificate, in the transaction of whatever has brought it."""
    _forget_expired(connection)
    _insert(connection, Session(thumbprint(leaf), tuple(sorted(groups)), ends), leaf)


def _insert(connection: sqlite3.Connection, session: Session, leaf: bytes) -> None:
    expires = x509.load_der_x509_certificate(leaf).not_valid_after_utc
    connection.execute(
        "INSERT INTO certificate_session (thumbprint, session, groups, end_time, expire_time) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            thumbprint(leaf),
            session.id,
            json.dumps(session.groups),
            None if session.ends is None else session.ends.timestamp(),
            expires.timestamp(),
        ),
    )


def _forget_expired(connection: sqlite3.Connection) -> None:
    # Nobody can show an expired certificate.
    connection.execute("DELETE FROM certificate_session WHERE expire_time < ?", (time.time(),))
