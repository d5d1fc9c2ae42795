"""What one authority says of whom it distrusts, in SQLite beside its join tokens."""

import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from certs.state import State
from telltale.errors import InvalidInput, LimitExceeded, Precondition
from telltale.identity.distrust import Entry
from telltale.identity.distrust_lists import LONGEST_REASON, MOST_ENTRIES
from telltale.naming import SpiffeId

# Whoever speaks where the authority's key lies.
CONSOLE = "console"
# A clock that runs ahead by this much is no attempt to distrust the future.
_SKEW = timedelta(seconds=5)

# One operator's stolen machine must not use up what belongs to all, and never what is said beside the key.
_MOST_OF_ONE = 200
_ROOM_OF_CONSOLE = 500
# How far the clock may stand before the word that is lifted.
_LONGEST_WAIT = 2.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS distrust (
    number INTEGER PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    since REAL NOT NULL,            -- Unix seconds, as all times here
    until REAL,                     -- NULL while it holds
    reason TEXT NOT NULL,
    said_by TEXT NOT NULL,
    issued REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS distrust_sequence (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL       -- grows with every change
) STRICT;
INSERT OR IGNORE INTO distrust_sequence VALUES (1, 0);
"""
_COLUMNS = "spiffe_id, since, until, reason, said_by, issued"


class Distrusts:
    """The words of one authority. Every method blocks; any thread and process may call."""

    def __init__(self, state: State, trust_domain: str) -> None:
        # state: that of the join tokens; those of an identity go with the word on it.
        self._state = state
        self._trust_domain = trust_domain

    def distrust(self, spiffe_id: SpiffeId, since: datetime | None, reason: str, by: str) -> Entry:
        """Distrusts an identity from then on, or from now; of two times the earlier one holds.

        Its join tokens that nobody used yet are worth nothing any more. Raises InvalidInput or LimitExceeded.
        """
        now = datetime.now(UTC)
        self._check(spiffe_id, reason)
        begins = min(since or now, now)
        if since is not None and since > now + _SKEW:
            raise InvalidInput(f"{since:%Y-%m-%d %H:%M:%S} UTC lies ahead; say since when, not from when on")
        with self._state.transaction() as connection:
            row = word(connection, spiffe_id)
            if row is None:
                (count,) = connection.execute("SELECT count(*) FROM distrust").fetchone()
                (said,) = connection.execute(
                    "SELECT count(*) FROM distrust WHERE said_by = ?", (by,)
                ).fetchone()
                if by != CONSOLE and (said >= _MOST_OF_ONE or count >= MOST_ENTRIES - _ROOM_OF_CONSOLE):
                    raise LimitExceeded(
                        "distrust_entries",
                        f"{by} has spoken of {said} identities and {self._trust_domain} of {count}: "
                        "speak of more where the authority's key lies, with `python -m certs distrust`",
                    )
                if count >= MOST_ENTRIES:
                    raise LimitExceeded(
                        "distrust_entries",
                        f"{self._trust_domain} has spoken of {MOST_ENTRIES} identities, its most; "
                        "replace the authority's keys, and with them everything that it ever issued",
                    )
                connection.execute(
                    f"INSERT INTO distrust ({_COLUMNS}) VALUES (?, ?, NULL, ?, ?, ?)",
                    (str(spiffe_id), begins.timestamp(), reason, by, now.timestamp()),
                )
            else:
                earlier = min(begins, row.since)
                connection.execute(
                    "UPDATE distrust SET since = ?, reason = ? WHERE spiffe_id = ? AND until IS NULL",
                    (earlier.timestamp(), reason or row.reason, str(spiffe_id)),
                )
            # The used ones too: a certificate that nobody believes any more is no answer to a retry.
            connection.execute("DELETE FROM join_token WHERE spiffe_id = ?", (str(spiffe_id),))
            return self._changed(connection, spiffe_id)

    def lift(self, spiffe_id: SpiffeId) -> Entry:
        """Ends the word on an identity: it is believed again, with keys that are enrolled from now on.

        Certificates have whole seconds: what was issued before the word must not look as if it were issued
        after it, so this returns when the second is over. Raises Precondition when there is no word.
        """
        self._check(spiffe_id, "")
        with self._state.connection() as connection:
            before = word(connection, spiffe_id)
        if before is not None:
            ahead = (_second(before.issued) - datetime.now(UTC)).total_seconds() + 1.0
            if ahead > _LONGEST_WAIT:
                raise Precondition(
                    f"{spiffe_id} was distrusted at {before.issued:%Y-%m-%d %H:%M:%S} UTC, which lies "
                    "ahead of this clock; set the clock, then lift it"
                )
            # Outside of the transaction: nobody else is to wait for this.
            time.sleep(max(0.0, ahead))
        with self._state.transaction() as connection:
            row = word(connection, spiffe_id)
            if row is None:
                raise Precondition(f"{spiffe_id} is not distrusted; there is nothing to lift")
            until = max(_second(datetime.now(UTC)), _second(row.issued) + timedelta(seconds=1))
            connection.execute(
                "UPDATE distrust SET until = ? WHERE spiffe_id = ? AND until IS NULL",
                (until.timestamp(), str(spiffe_id)),
            )
            self._changed(connection, spiffe_id)
            return Entry(spiffe_id, row.since, until, row.reason, row.by, row.issued)

    def all(self) -> tuple[int, Sequence[Entry]]:
        """The sequence, which grows with every change, and all words in the order of their time."""
        with self._state.connection() as connection:
            # One statement sees one state, whoever writes meanwhile.
            rows = connection.execute(
                f"SELECT sequence, {_COLUMNS} FROM distrust_sequence LEFT JOIN distrust ON TRUE"
                " ORDER BY number"
            ).fetchall()
        return rows[0][0], [_entry(row[1:]) for row in rows if row[1] is not None]

    def adopt(self, sequence: int, entries: Sequence[Entry]) -> None:
        """Takes over words that were this authority's own before its state was lost; not over newer ones."""
        with self._state.transaction() as connection:
            (present,) = connection.execute("SELECT sequence FROM distrust_sequence").fetchone()
            if present >= sequence:
                return
            connection.execute("DELETE FROM distrust")
            connection.executemany(
                f"INSERT INTO distrust ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        str(entry.spiffe_id),
                        entry.since.timestamp(),
                        None if entry.until is None else entry.until.timestamp(),
                        entry.reason,
                        entry.by,
                        entry.issued.timestamp(),
                    )
                    for entry in entries
                ],
            )
            connection.execute("UPDATE distrust_sequence SET sequence = max(sequence, ?)", (sequence,))

    def sequence(self) -> int:
        """Whether anything changed since it was read before, at little cost."""
        with self._state.connection() as connection:
            (sequence,) = connection.execute("SELECT sequence FROM distrust_sequence").fetchone()
        return int(sequence)

    def _check(self, spiffe_id: SpiffeId, reason: str) -> None:
        if spiffe_id.trust_domain != self._trust_domain:
            raise InvalidInput(
                f"{spiffe_id} is not of {self._trust_domain}; its own authority has to distrust it"
            )
        if spiffe_id.path == "/authority":
            raise InvalidInput(
                f"{spiffe_id} is the authority itself, whose word this would be; replace its keys instead"
            )
        if len(reason) > LONGEST_REASON or not reason.isprintable():
            raise InvalidInput(f"a reason is one line of at most {LONGEST_REASON} characters")

    def _changed(self, connection: sqlite3.Connection, spiffe_id: SpiffeId) -> Entry:
        # Above what a lost or restored state has told before, because time goes on.
        connection.execute(
            "UPDATE distrust_sequence SET sequence = max(sequence + 1, ?)", (time.time_ns() // 1_000_000,)
        )
        row = connection.execute(
            f"SELECT {_COLUMNS} FROM distrust WHERE spiffe_id = ? ORDER BY number DESC LIMIT 1",
            (str(spiffe_id),),
        ).fetchone()
        return _entry(row)


def word(connection: sqlite3.Connection, spiffe_id: SpiffeId) -> Entry | None:
    """The word that holds on an identity: nobody joins as it meanwhile."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM distrust WHERE spiffe_id = ? AND until IS NULL", (str(spiffe_id),)
    ).fetchone()
    return None if row is None else _entry(row)


def _entry(row: Sequence[object]) -> Entry:
    spiffe_id, since, until, reason, by, issued = row
    return Entry(
        SpiffeId.parse(str(spiffe_id)),
        _time(since),
        None if until is None else _time(until),
        str(reason),
        str(by),
        _time(issued),
    )


def _time(seconds: object) -> datetime:
    return datetime.fromtimestamp(float(str(seconds)), UTC)


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
