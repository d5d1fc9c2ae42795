"""What an authority remembers, in SQLite: one small file beside its keys."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from telltale.errors import Unavailable

STATE = "state.sqlite"
# Seconds for which one waits for another's transaction.
_LOCK_SECONDS = 10.0


class State:
    """The file of one authority. Every method blocks; any thread and process may call."""

    def __init__(self, directory: Path, *schemas: str) -> None:
        self._path = directory / STATE
        if not self._path.exists():
            self._path.touch(mode=0o600)
        with self.connection() as connection:
            for schema in schemas:
                connection.executescript(schema)

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        # Joining is rare: a connection for each needs neither a pool nor a thread of its own.
        with closing(sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. The lock is taken before anything is read: of two at once only one can win.

        Raises Unavailable, with nothing changed, when the file cannot be written or others keep it locked.
        """
        with self.connection() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as failed:
                # SQLite itself has rolled back what did not fit on the disk.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if _is_lock(failed):
                    raise Unavailable(
                        f"{self._path} was locked by another for {_LOCK_SECONDS:g} s; try again, "
                        "and look for who holds it"
                    ) from failed
                if isinstance(failed, sqlite3.OperationalError):
                    raise Unavailable(
                        f"{self._path} cannot be written: {failed}; check the disk's space and health"
                    ) from failed
                raise


def _is_lock(failed: BaseException) -> bool:
    # An extended code has its kind in the low byte. Errors of the module itself have none.
    code: int = getattr(failed, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY
