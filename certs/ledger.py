"""The join tokens of one authority: only their hashes, and each is good for one key."""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from certs import distrusts, sessions
from certs.profiles import Profile
from certs.state import State
from telltale.errors import Precondition, Unauthenticated
from telltale.identity.enrolment import JoinToken
from telltale.naming import SpiffeId

JOIN_TOKEN_LIFE = timedelta(minutes=10)
# Spent and expired tokens are kept this long, so that a late retry is told what happened to its token.
_KEPT = timedelta(days=2)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS join_token (
    token_sha256 BLOB PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    dns_names TEXT NOT NULL,        -- JSON
    expire_time REAL NOT NULL,      -- Unix seconds
    key_sha256 BLOB,                -- who has used it
    leaf BLOB,                      -- what was issued for it, in DER
    issuer BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS join_token_group (
    token_sha256 BLOB NOT NULL,
    name TEXT NOT NULL,             -- policy group of the identity that joins with it
    PRIMARY KEY (token_sha256, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS console_invitation (
    number INTEGER PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    groups TEXT NOT NULL,           -- JSON
    time REAL NOT NULL              -- Unix seconds
) STRICT;
"""
# Invitations of the console that wait for the authority to tell of them; beyond that the oldest are dropped.
_MOST_WAITING = 10_000


@dataclass(frozen=True)
class NewJoinToken:
    """A join token, to be shown once."""

    token: JoinToken
    expires: datetime


@dataclass(frozen=True)
class ConsoleInvitation:
    """A join token that was made where the authority's key lies."""

    number: int
    spiffe_id: str
    groups: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class Redeemed:
    """What a join token bought. again: the same key had it already, and gets the same once more."""

    certificates: tuple[bytes, ...]
    again: bool


class Ledger:
    """What the authority remembers of joining. Every method blocks; any thread and process may call."""

    def __init__(self, directory: Path) -> None:
        self.state = State(directory, _SCHEMA, distrusts.SCHEMA)
        # Its table has to be there when the first token with groups is redeemed.
        sessions.Sessions(directory)

    def grant(
        self,
        profile: Profile,
        life: timedelta = JOIN_TOKEN_LIFE,
        groups: Collection[str] = (),
        *,
        console: bool = False,
    ) -> NewJoinToken:
        """Makes a join token for one identity, which will be in these policy groups.

        console: whether it is made where the key lies, beside the authority, which tells of it later.
        Raises Precondition while the identity is distrusted.
        """
        token = JoinToken(secrets.token_urlsafe(32), profile.spiffe_id)
        # In whole seconds, as it will be shown.
        expires = datetime.now(UTC).replace(microsecond=0) + life
        with self.state.transaction() as connection:
            _forget_old(connection)
            word = distrusts.word(connection, profile.spiffe_id)
            if word is not None:
                raise Precondition(
                    f"{word}; lift that with `telltale distrust {profile.spiffe_id} --lift` first"
                )
            connection.execute(
                "INSERT INTO join_token (token_sha256, spiffe_id, dns_names, expire_time) "
                "VALUES (?, ?, ?, ?)",
                (
                    _sha256(str(token)),
                    str(profile.spiffe_id),
                    json.dumps(profile.dns_names),
                    expires.timestamp(),
                ),
            )
            connection.executemany(
                "INSERT INTO join_token_group (token_sha256, name) VALUES (?, ?)",
                [(_sha256(str(token)), group) for group in set(groups)],
            )
            if console:
                connection.execute(
                    "INSERT INTO console_invitation (spiffe_id, groups, time) VALUES (?, ?, ?)",
                    (str(profile.spiffe_id), json.dumps(sorted(set(groups))), time.time()),
                )
                connection.execute(
                    "DELETE FROM console_invitation "
                    "WHERE number <= (SELECT max(number) FROM console_invitation) - ?",
                    (_MOST_WAITING,),
                )
        return NewJoinToken(token, expires)

    def console_invitations(self) -> list[ConsoleInvitation]:
        """What the console has granted and nobody has told of yet, the oldest first."""
        with self.state.connection() as connection:
            rows = connection.execute(
                "SELECT number, spiffe_id, groups, time FROM console_invitation ORDER BY number LIMIT 100"
            ).fetchall()
        return [
            ConsoleInvitation(number, spiffe_id, tuple(json.loads(groups)), datetime.fromtimestamp(at, UTC))
            for number, spiffe_id, groups, at in rows
        ]

    def told(self, invitations: Collection[ConsoleInvitation]) -> None:
        """These are recorded."""
        with self.state.transaction() as connection:
            connection.executemany(
                "DELETE FROM console_invitation WHERE number = ?", [(one.number,) for one in invitations]
            )

    def redeem(
        self, token: str, key_sha256: bytes, issue: Callable[[Profile], tuple[bytes, ...]]
    ) -> Redeemed:
        """The certificates for a join token. The first key takes it; the same key gets its own again.

        Raises Unauthenticated for any other, and while the identity is distrusted.
        """
        with self.state.transaction() as connection:
            return self._redeem(connection, _sha256(token), key_sha256, issue)

    def _redeem(
        self,
        connection: sqlite3.Connection,
        token_sha256: bytes,
        key_sha256: bytes,
        issue: Callable[[Profile], tuple[bytes, ...]],
    ) -> Redeemed:
        row = connection.execute(
            "SELECT spiffe_id, dns_names, expire_time, key_sha256, leaf, issuer FROM join_token "
            "WHERE token_sha256 = ?",
            (token_sha256,),
        ).fetchone()
        if row is None:
            raise Unauthenticated("this join token is unknown here; ask for a new one")
        spiffe_id, dns_names, expire_time, used_by, leaf, issuer = row
        identity = SpiffeId.parse(spiffe_id)
        word = distrusts.word(connection, identity)
        if word is not None:
            raise Unauthenticated(f"{word}; nobody joins under this name until an operator lifts that")
        if used_by is not None:
            if used_by != key_sha256:
                raise Unauthenticated(
                    "this join token was used with another key; ask for a new one, and find out who used it"
                )
            if x509.load_der_x509_certificate(leaf).not_valid_after_utc <= datetime.now(UTC):
                raise Unauthenticated("what this join token was good for has expired; ask for a new one")
            return Redeemed((leaf, issuer), again=True)
        if expire_time <= time.time():
            raise Unauthenticated("this join token has expired; ask for a new one")
        leaf, issuer = issue(Profile(identity, tuple(json.loads(dns_names))))
        connection.execute(
            "UPDATE join_token SET key_sha256 = ?, leaf = ?, issuer = ? WHERE token_sha256 = ?",
            (key_sha256, leaf, issuer, token_sha256),
        )
        groups = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM join_token_group WHERE token_sha256 = ?", (token_sha256,)
            )
        ]
        if groups:
            sessions.begin(connection, leaf, groups, None)
        return Redeemed((leaf, issuer), again=False)


def _forget_old(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM join_token WHERE expire_time < ?", (time.time() - _KEPT.total_seconds(),))
    connection.execute(
        "DELETE FROM join_token_group WHERE token_sha256 NOT IN (SELECT token_sha256 FROM join_token)"
    )


def _sha256(token: str) -> bytes:
    # The secret is 256 random bits: a plain hash is as good as a slow one.
    return hashlib.sha256(token.encode()).digest()
