"""What an authority says when its state cannot be written."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from certs import state
from certs.state import STATE, State
from telltale.errors import Unavailable


def test_a_lock_that_another_holds_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_LOCK_SECONDS", 0.05)
    mine = State(tmp_path, "CREATE TABLE t (x INTEGER)")
    with closing(sqlite3.connect(tmp_path / STATE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(Unavailable, match=r"locked by another for 0\.05 s; try again"),
            mine.transaction() as connection,
        ):
            connection.execute("INSERT INTO t VALUES (1)")
        other.execute("ROLLBACK")
    with mine.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        assert connection.execute("SELECT x FROM t").fetchall() == [(2,)]
