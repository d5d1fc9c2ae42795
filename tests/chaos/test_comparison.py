"""The comparison finds what is planted: one that cannot fail would prove nothing."""

import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.writer.store import Store
from telltale.domain.log import Candidate, ProductLog
from telltale.source.drafts import Draft, Sealed
from telltale.source.spool import Spool
from tests.chaos.comparison import Comparison, compare
from tests.chaos.journal import Journal, digest, read
from tests.chaos.records import LOADS
from tests.support.batches import SCHEMAS, Chain, header_of
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

LOAD = LOADS[0]
BATCHES, RECORDS = 6, 3


@dataclass(frozen=True)
class Stored:
    """What a source has sealed, and everywhere it has come to."""

    directory: Path
    source: str

    def compare(self, *, damaged: bool = False) -> Comparison:
        return compare(
            self.directory / "telltale.db",
            read(self.directory / "journal"),
            [(self.source, self.directory / "spool.db")],
            [self.directory / "log.db"],
            damaged=damaged,
        )

    def plant(self, file: str, *statements: str) -> None:
        connection = sqlite3.connect(self.directory / file)
        with connection:
            for statement in statements:
                assert connection.execute(statement).rowcount, statement
        connection.close()


@pytest.fixture
async def stored(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    mesh = Mesh.create(tmp_path_factory.mktemp("mesh"), "servers", "platform")
    chain = Chain(mesh.credentials("servers", "/agent/load-1"), LOAD.product)
    source = str(chain.credentials.spiffe_id)
    draw = random.Random(1)
    async with (
        Spool(tmp_path / "spool.db", 1 << 20) as spool,
        ProductLog(tmp_path / "log.db") as log,
        Store(tmp_path / "telltale.db") as store,
    ):
        await log.add_schema(SCHEMAS[LOAD.product].data)
        deliveries = Log(log.id)
        with Journal(tmp_path / "journal") as journal:
            for number in range(BATCHES):
                made = [LOAD.make(draw, number * RECORDS + place) for place in range(1, RECORDS + 1)]
                announced = journal.announce(source, LOAD.product, [digest(one.values) for one in made])
                batch = chain.next([one.record for one in made])

                def seal(draft: Draft, batch=batch) -> Sealed:  # type: ignore[no-untyped-def]
                    return Sealed(batch, RECORDS, chain.credentials.certificates)

                await spool.append(LOAD.product, chain.epoch, [seal], sheddable=True)
                journal.keep(announced)
                item = deliveries.deliver(batch)
                signer = chain.credentials.certificates
                candidate = Candidate(header_of(batch), item.header_sha256, batch.SerializeToString(), signer)
                assert await log.append([candidate]) == [None]
                await store.commit([item])
        await spool.forget([one.id for one in await spool.after(0, 1 << 20, 100)])
    return Stored(tmp_path, source)


def test_what_arrived_as_it_was_sealed_is_found_so(stored: Stored) -> None:
    found = stored.compare()
    assert found.holds, found.broken
    assert (found.records_sealed, found.records_stored) == (BATCHES * RECORDS, BATCHES * RECORDS)
    assert (found.batches_stored, found.chains, found.records_in_doubt) == (BATCHES, 1, 0)


_COLUMNS = ", ".join(LOAD.columns)


@pytest.mark.parametrize(
    ("promise", "statement"),
    [
        ("lost", f"DELETE FROM {LOAD.table} WHERE total_inodes = 8"),
        (
            "duplicated",
            f"INSERT INTO {LOAD.table} ({_COLUMNS}, _source, _epoch, _sequence) "
            f"SELECT {_COLUMNS}, _source, _epoch, _sequence FROM {LOAD.table} WHERE total_inodes = 8",
        ),
        ("out of order", f"UPDATE {LOAD.table} SET _row = 1000 WHERE total_inodes = 8"),
        ("out of order", "UPDATE batches SET rowid = 1000 WHERE sequence = 3"),
        ("changed", f"UPDATE {LOAD.table} SET used_bytes = used_bytes + 1 WHERE total_inodes = 8"),
        ("changed", f"UPDATE {LOAD.table} SET total_inodes = 99 WHERE total_inodes = 18"),
        ("changed", "UPDATE batches SET header_sha256 = 'ff' WHERE sequence = 3"),
        ("changed", "DELETE FROM batches WHERE sequence = 6"),
        ("lost", "DELETE FROM batches WHERE sequence = 6"),
        ("undeclared holes", "DELETE FROM batches WHERE sequence = 3"),
        (
            "undeclared holes",
            "INSERT INTO holes SELECT product, source, epoch, 3, 3, NULL, 'UNDECLARED', 4, sealed_time"
            " FROM batches WHERE sequence = 4",
        ),
        (
            "undeclared holes",
            "INSERT INTO gaps SELECT product, log, 3, 'RETENTION', log, 4, received_time"
            " FROM batches WHERE sequence = 4",
        ),
        (
            "lost",
            "INSERT INTO quarantine SELECT 1, product, source, epoch, sequence, log, \"offset\", 'SIGNATURE',"
            " '', 1, x'', x'', x'', 0, header_sha256, received_time, received_time"
            " FROM batches WHERE sequence = 4",
        ),
    ],
)
def test_what_is_planted_in_the_database_is_found(stored: Stored, promise: str, statement: str) -> None:
    stored.plant("telltale.db", statement)
    found = stored.compare()
    assert found.broken[promise] and not found.holds


def test_a_batch_that_was_sealed_and_is_nowhere_is_found(stored: Stored) -> None:
    stored.plant("spool.db", "UPDATE chains SET sequence = sequence + 1")
    assert "are nowhere: [7]" in stored.compare().lost[0]


def test_a_batch_that_waits_in_the_log_or_in_the_spool_is_not_lost(stored: Stored) -> None:
    last = f"_sequence = {BATCHES}"
    stored.plant(
        "telltale.db",
        f"DELETE FROM {LOAD.table} WHERE {last}",
        f"DELETE FROM batches WHERE sequence = {BATCHES}",
        'UPDATE cursors SET "offset" = "offset" - 1',
    )
    found = stored.compare()
    # Its records are: the campaign compares when everything of the load has arrived.
    assert [line for line in found.lost if "records are missing" in line] == found.lost
    stored.plant("telltale.db", 'UPDATE cursors SET "offset" = "offset" + 1')
    assert len(stored.compare().lost) == 2 + 1


def test_a_declared_loss_is_counted_and_breaks_no_promise(stored: Stored) -> None:
    stored.plant(
        "telltale.db",
        "INSERT INTO holes SELECT product, source, epoch, 3, 3, records, 'SHED', 4, sealed_time"
        " FROM batches WHERE sequence = 4",
        f"DELETE FROM {LOAD.table} WHERE _sequence = 3",
        "DELETE FROM batches WHERE sequence = 3",
    )
    # It was acked, or the log would not have it.
    stored.plant("log.db", "DELETE FROM batches WHERE sequence = 3")
    found = stored.compare()
    assert found.holds, found.broken
    assert (found.records_declared_lost, found.batches_declared_lost) == (RECORDS, 1)


def _gone(*sequences: int, log: bool = True) -> dict[str, list[str]]:
    """What a batch that damage took is missing from, by file."""
    gone = f"IN ({', '.join(map(str, sequences))})"
    found = {
        "telltale.db": [
            f"DELETE FROM {LOAD.table} WHERE _sequence {gone}",
            f"DELETE FROM batches WHERE sequence {gone}",
        ]
    }
    return found | ({"log.db": [f"DELETE FROM batches WHERE sequence {gone}"]} if log else {})


def _hole(first: int, last: int, reason: str = "GAP") -> str:
    return (
        f"INSERT INTO holes SELECT product, source, epoch, {first}, {last}, NULL, '{reason}', 6, sealed_time"
        " FROM batches WHERE sequence = 1"
    )


def _gap(after: int, resumed: int | None, reason: str = "DAMAGED") -> str:
    """Of the fixture's log, where a batch's offset is its sequence; None: another log came after it."""
    log, offset = ("log", str(resumed)) if resumed else ("'another'", "1")
    return (
        f"INSERT INTO gaps SELECT product, log, {after}, '{reason}', {log}, {offset}, received_time"
        " FROM batches WHERE sequence = 1"
    )


def test_what_damage_took_counts_as_lost_unless_it_shows(stored: Stored) -> None:
    for file, statements in _gone(3).items():
        stored.plant(file, *statements)
    found = stored.compare(damaged=True)
    assert found.lost and found.undeclared
    stored.plant("telltale.db", _gap(2, 4), _hole(3, 3))
    found = stored.compare(damaged=True)
    assert found.holds, found.broken
    assert (found.records_excused, found.records_declared_lost) == (RECORDS, 0)
    assert not stored.compare().holds


@pytest.mark.parametrize(
    ("gone", "shown"),
    [
        # Beside the gap, and more than its offsets.
        ((3,), [_gap(4, 6), _hole(3, 3)]),
        ((3, 4), [_gap(2, 4), _hole(3, 4)]),
        ((3, 5), [_gap(2, 4), _hole(3, 3)]),
        # Beside the hole, and one that nobody declared.
        ((3,), [_gap(2, 4), _hole(5, 5)]),
        ((3,), [_gap(2, 4), _hole(3, 3, "UNDECLARED")]),
        # The end of a chain, in no gap.
        ((5, 6), [_gap(2, 4)]),
    ],
)
def test_what_is_missing_beyond_what_damage_shows_is_found(
    stored: Stored, gone: tuple[int, ...], shown: list[str]
) -> None:
    for file, statements in _gone(*gone).items():
        stored.plant(file, *statements)
    stored.plant("telltale.db", *shown)
    found = stored.compare(damaged=True)
    assert found.lost or found.undeclared


def test_a_batch_that_was_acked_is_lost_though_a_gap_lies_elsewhere_in_its_log(stored: Stored) -> None:
    for file, statements in _gone(5, log=False).items():
        stored.plant(file, *statements)
    stored.plant("telltale.db", _gap(2, 4), _hole(5, 5, "SHED"))
    assert any("was acked and is not stored" in line for line in stored.compare(damaged=True).lost)


def test_records_beyond_what_a_damaged_spool_declared_are_lost(stored: Stored) -> None:
    for file, statements in _gone(5, 6).items():
        stored.plant(file, *statements)
    stored.plant("spool.db", "UPDATE chains SET sequence = 4")
    declared = (
        "INSERT INTO losses SELECT product, source, epoch, 4, 0, {}, 'FAILURE', '', received_time"
        " FROM batches WHERE sequence = 4"
    )
    stored.plant("telltale.db", declared.format(2 * RECORDS - 1))
    assert stored.compare(damaged=True).lost
    stored.plant("telltale.db", f"UPDATE losses SET records = {2 * RECORDS}")
    assert stored.compare(damaged=True).holds and stored.compare().holds


@pytest.mark.parametrize("resumed", [None, 1])
def test_the_end_of_a_chain_in_the_gap_of_a_log_that_was_replaced_or_cut_is_no_loss(
    stored: Stored, resumed: int | None
) -> None:
    for file, statements in _gone(5, 6).items():
        stored.plant(file, *statements)
    assert any("nowhere" in line for line in stored.compare(damaged=True).lost)
    stored.plant("telltale.db", _gap(4, resumed, "LOG_REPLACED"))
    assert stored.compare(damaged=True).holds and not stored.compare().holds


def test_a_record_that_was_only_announced_may_be_missing_and_may_be_there(stored: Stored) -> None:
    with Journal(stored.directory / "journal") as journal:
        journal.announce(stored.source, LOAD.product, ["00"])
    found = stored.compare()
    assert found.holds and found.records_in_doubt == 1
    lines = (stored.directory / "journal").read_text().splitlines()
    (stored.directory / "journal").write_text("\n".join(line for line in lines if '"kept": 6' not in line))
    found = stored.compare()
    assert found.holds and found.records_in_doubt == 1 + RECORDS


def test_a_journal_goes_on_after_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.keep(journal.announce("a", "p", ["00", "11"]))
    path.write_bytes(path.read_bytes() + b'{"id": 2, "source": "a", "prod')
    with Journal(path) as journal:
        assert journal.last == {("a", "p"): 2}
        journal.announce("a", "p", ["22"])
    first, second = read(path)
    assert (first.first, first.digests, first.kept) == (1, ("00", "11"), True)
    assert (second.first, second.digests, second.kept) == (3, ("22",), False)
