"""What the authority remembers of people, in SQLite: whose a name is, and which ID tokens were exchanged."""

import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certs import sessions
from certs.people.id_token import Login
from certs.state import State
from telltale.errors import NotFound, Unauthenticated

_SCHEMA = """
CREATE TABLE IF NOT EXISTS person (
    name TEXT PRIMARY KEY,          -- as it stands in the SPIFFE path
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exchange (
    id_token_sha256 BLOB PRIMARY KEY,
    key_sha256 BLOB NOT NULL,       -- who has shown it
    leaf BLOB NOT NULL,             -- what was issued for it, in DER
    issuer BLOB NOT NULL,
    keep_time REAL NOT NULL         -- Unix seconds until when it could be shown again
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Wanted:
    """A session that somebody may have."""

    # As it stands in the SPIFFE path.
    name: str
    groups: Collection[str]
    ends: datetime


class PeopleRecord:
    """The people of one authority. Every method blocks; any thread and process may call."""

    def __init__(self, directory: Path) -> None:
        self._state = State(directory, _SCHEMA)
        # Its table has to be there when the first session begins.
        sessions.Sessions(directory)

    def exchange(
        self,
        login: Login,
        issuer: str,
        key_sha256: bytes,
        wanted: Wanted,
        issue: Callable[[], tuple[bytes, ...]],
    ) -> tuple[bytes, ...]:
        """The certificates for an ID token of a provider. The same key gets its own again, another none."""
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM exchange WHERE keep_time < ?", (time.time(),))
            row = connection.execute(
                "SELECT key_sha256, leaf, issuer FROM exchange WHERE id_token_sha256 = ?", (login.sha256,)
            ).fetchone()
            if row is not None:
                shown_by, *certificates = row
                if shown_by != key_sha256:
                    raise Unauthenticated("this ID token was exchanged with another key; log in again")
                return tuple(certificates)
            _claim(connection, wanted.name, issuer, login.subject)
            leaf, issuing = issue()
            sessions.begin(connection, leaf, wanted.groups, wanted.ends)
            connection.execute(
                "INSERT INTO exchange (id_token_sha256, key_sha256, leaf, issuer, keep_time) "
                "VALUES (?, ?, ?, ?, ?)",
                (login.sha256, key_sha256, leaf, issuing, login.until.timestamp()),
            )
        return (leaf, issuing)

    def forget(self, name: str) -> None:
        """Frees a name for the next who logs in under it; raises NotFound for one that nobody has."""
        with self._state.transaction() as connection:
            if connection.execute("DELETE FROM person WHERE name = ?", (name,)).rowcount == 0:
                raise NotFound(f"nobody has logged in as {name[:200]!r}")


def _claim(connection: sqlite3.Connection, name: str, issuer: str, subject: str) -> None:
    """A name is its first holder's: providers give the names of those who left to others."""
    row = connection.execute("SELECT issuer, subject FROM person WHERE name = ?", (name,)).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO person (name, issuer, subject) VALUES (?, ?, ?)", (name, issuer, subject)
        )
    elif row != (issuer, subject):
        raise Unauthenticated(
            f"the name {name} belongs to another account of the provider; if that person has left, free it "
            f"where the authority's key lies with `python -m certs forget-person --name {name}`"
        )
