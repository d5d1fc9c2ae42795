"""Records in files are the same history as records in rows: same answers and verdicts, each once."""

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from services.writer import upkeep
from services.writer.distrust import mark
from services.writer.files import Directory
from services.writer.store import Store
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.cli.sql import run_query
from telltale.consume.chains import Chains
from telltale.contract.product import contracts_in
from telltale.errors import InvalidInput, Unavailable
from tests.services.writer.test_store import rows
from tests.support.compiling import compile_product
from tests.support.deliveries import Log
from tests.support.flows import TABLE, TIME, Exporter, Flows
from tests.support.mesh import Mesh
from tests.support.words import word

PORTS = f"SELECT local_port FROM {TABLE} ORDER BY _row"


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Flows:
    return Flows(tmp_path_factory.mktemp("flows"))


@pytest.fixture
def exporter(mesh: Mesh) -> Exporter:
    return Exporter(mesh)


def ports(database: Path, **options: Any) -> list[int]:
    return [port for (port,) in run_query(database, PORTS, 100_000, **options).rows]


def files(database: Path) -> list[Path]:
    return sorted(Directory(database).path.iterdir())


def flip(path: Path, place: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0x10
    path.write_bytes(damaged)


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """What a full disk does to a write, done by the kernel to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_an_answer_is_the_same_whichever_store_holds_the_records(
    tmp_path: Path, mesh: Mesh, flows: Flows
) -> None:
    answers = []
    epoch = datetime(2026, 3, 4, tzinfo=UTC)
    for name, version in (("columns", flows), ("rows", Flows(tmp_path, store="store: STORE_ROWS"))):
        exporter, database = Exporter(mesh), tmp_path / f"{name}.db"
        async with Store(database) as store:
            for count in (1, 0, 5):
                await store.commit([exporter.deliver(version, count, received_time=epoch, received_bytes=7)])
            await store.commit([exporter.deliver(version, received_time=epoch)])
        answers.append(
            [
                run_query(database, f"SELECT * FROM {TABLE} ORDER BY local_port"),
                run_query(database, f"DESCRIBE SELECT * EXCLUDE (_row) FROM {TABLE}"),
                run_query(database, "SELECT records, first_row, last_row FROM batches ORDER BY sequence"),
                run_query(database, "SHOW TABLES").rows.count((TABLE,)),
            ]
        )
        assert len(answers[-1][0].rows) == 9
    by_name = [dict(zip(one.columns, zip(*one.rows, strict=True), strict=True)) for one, *_ in answers]
    assert by_name[0] == by_name[1]
    columns, as_rows = ({row[0]: row[1] for row in described.rows} for _, described, *_ in answers)
    assert columns == as_rows
    assert answers[0][2:] == answers[1][2:]


async def test_every_kind_of_field_is_the_same_in_both_stores(tmp_path: Path, mesh: Mesh) -> None:
    fields = """
    double real = 20; float short = 21; bool yes = 22; bytes raw = 23; repeated string words = 24;
    map<string, int64> counts = 25; google.protobuf.Timestamp ended = 26; uint64 all_ones = 27;
    sint32 small = 28; optional bool maybe = 29; repeated Protocol several = 30; fixed64 fixed = 31;"""
    values = {
        "real": float("nan"), "short": 0.5, "yes": True, "raw": b"\x00\xff", "words": ["a", "ü"],
        "counts": {"a": -1}, "ended": TIME, "all_ones": 2**64 - 1, "small": -5, "several": [1, 2], "fixed": 3,
    }  # fmt: skip
    answers = []
    for name in ("STORE_COLUMNS", "STORE_ROWS"):
        version = Flows(tmp_path / name, fields, store=f"store: {name}")
        database = tmp_path / f"{name}.db"
        async with Store(database) as store:
            exporter = Exporter(mesh)
            await store.commit([exporter.deliver(version, 2, **values), exporter.deliver(version, 1)])
        names = ", ".join(column.name for column in version.contract.record.fields[9:])
        question = f"SELECT {names}, duration_seconds FROM {TABLE} ORDER BY local_port"
        answers.append(run_query(database, question))
    assert answers[0] == answers[1]
    assert answers[0].rows[0][7] == -1


async def test_a_batch_delivered_again_is_in_no_second_file(
    store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    chains = Chains()
    exporter = Exporter(mesh, log=Log("a", chains))
    batches = list(exporter.many(flows, 4))
    await store.commit(batches)
    again = Log("b", chains)
    repeated = [again.deliver(item.batch, contract=flows.contract, schema=flows.schema) for item in batches]
    tally = await store.commit([*repeated, exporter.deliver(flows)])
    assert (tally.batches, tally.duplicates, tally.refused) == (1, 4, [])
    assert ports(database) == list(range(1, 16))
    assert len(files(database)) == 2


async def test_versions_that_come_together_share_a_table_and_what_one_lacks_is_null(
    tmp_path: Path, store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    grown = Flows(tmp_path, "string application = 20;", version="1.1.0")
    exporter = Exporter(mesh)
    await store.commit([exporter.deliver(flows, 1)])
    later = [
        exporter.deliver(grown, 1, application="dns"),
        exporter.deliver(flows, 1),
        exporter.deliver(grown, 1, application="ntp"),
    ]
    await store.commit(later)
    question = f"SELECT local_port, application, _row FROM {TABLE} ORDER BY _row"
    expected = [(1, None, 1), (2, "dns", 2), (3, None, 3), (4, "ntp", 4)]
    assert run_query(database, question).rows == expected


async def test_a_version_whose_column_does_not_fit_goes_to_quarantine(
    tmp_path: Path, store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    one = Flows(tmp_path / "one", "string tag = 20;")
    other = Flows(tmp_path / "other", "int64 tag = 20;", version="2.0.0")
    exporter = Exporter(mesh)
    tally = await store.commit([exporter.deliver(one), exporter.deliver(other), exporter.deliver(one)])
    assert tally.batches == 2
    assert [refused.reason for _, refused in tally.refused] == [RefusalReason.REFUSAL_REASON_MALFORMED]
    assert "tag was TEXT before and is BIGINT now" in rows(database, "SELECT detail FROM quarantine")[0][0]
    assert ports(database) == [1, 2, 3, 7, 8, 9]


@pytest.mark.parametrize("first", ["STORE_ROWS", "STORE_COLUMNS"])
async def test_a_product_keeps_the_store_that_it_began_with(
    first: str, tmp_path: Path, database: Path, mesh: Mesh
) -> None:
    other = {"STORE_ROWS": "STORE_COLUMNS", "STORE_COLUMNS": "STORE_ROWS"}[first]
    versions = [
        Flows(tmp_path / name, store=f"store: {name}", version=version)
        for name, version in ((first, "1.0.0"), (other, "1.1.0"))
    ]
    exporter = Exporter(mesh)
    async with Store(database) as store:
        # Both at once: what was decoded for one store is stored in the other.
        await store.commit([exporter.deliver(version) for version in versions])
        await store.commit([exporter.deliver(versions[1])])
    async with Store(database) as store:
        await store.commit([exporter.deliver(versions[1])])
    assert ports(database) == list(range(1, 13))
    assert rows(database, "SELECT store FROM products") == [(first.removeprefix("STORE_"),)]
    assert Directory(database).path.exists() == (first == "STORE_COLUMNS")


async def test_a_product_that_nobody_has_sent_yet_is_an_empty_table_and_its_store_may_still_change(
    tmp_path: Path, store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    as_rows = Flows(tmp_path, "string more = 20;", store="")
    for version in (flows, as_rows, flows):
        await store.foresee(version.contract, version.schema)
        assert run_query(database, f"SELECT * FROM {TABLE}").rows == []
        assert (TABLE,) in run_query(database, "SHOW TABLES").rows
    await store.commit([Exporter(mesh).deliver(flows)])
    assert ports(database) == [1, 2, 3]


async def test_what_is_distrusted_afterwards_says_so_and_nothing_else_does(
    store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    now = datetime.now(UTC)
    log = Log()
    for name in ("web1", "web2"):
        exporter = Exporter(mesh, name, log)
        for seconds in (40, 20, 10):
            await store.commit([exporter.deliver(flows, 2, sealed_at=now - timedelta(seconds=seconds))])
    entry = word(mesh.spiffe_id("servers", "/agent/web1"), now - timedelta(seconds=30))
    assert await mark([entry], store) == 2
    assert await mark([entry], store) == 0
    question = f"SELECT _source LIKE '%web1', local_port, _verified FROM {TABLE} ORDER BY _row"
    web1 = [(True, port, "DISTRUSTED" if port > 2 else "VERIFIED") for port in range(1, 7)]
    web2 = [(False, port, "VERIFIED") for port in range(1, 7)]
    assert run_query(database, question).rows == web1 + web2
    assert rows(database, "SELECT count(*) FROM quarantine WHERE reason = 'DISTRUSTED'") == [(2,)]


async def test_retention_removes_whole_files_and_remembers_that_they_were_stored(
    store: Store, database: Path, flows: Flows, mesh: Mesh, now: Callable[[], datetime]
) -> None:
    chains = Chains()
    exporter = Exporter(mesh, log=Log("a", chains))
    old = [exporter.deliver(flows, received_time=now() - timedelta(days=31)) for _ in range(3)]
    empty = exporter.deliver(flows, 0, received_time=now() - timedelta(days=31))
    # Its file is as old as its newest batch.
    mixed = [exporter.deliver(flows, received_time=now() - timedelta(days=days)) for days in (31, 1)]
    for group in (old, [empty], mixed):
        await store.commit(group)
    assert await store.prune(now()) == 4
    assert ports(database) == list(range(10, 16))
    again = Log("b", chains)
    tally = await store.commit(
        [again.deliver(item.batch, contract=flows.contract, schema=flows.schema) for item in old]
    )
    assert (tally.batches, tally.duplicates) == (0, 3)
    # Whoever asks meanwhile can still open the file.
    assert (await store.sweep(now()), len(files(database))) == (0, 2)
    assert (await store.sweep(now() + timedelta(minutes=11)), len(files(database))) == (1, 1)
    # Numbers of rows are not used again.
    await store.commit([exporter.deliver(flows)])
    assert run_query(database, f"SELECT min(_row), max(_row) FROM {TABLE}").rows == [(10, 18)]


async def test_many_small_files_become_few_and_no_answer_changes(
    store: Store, database: Path, flows: Flows, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MERGED_AT_ONCE", 4)
    exporter = Exporter(mesh)
    question = f"SELECT * FROM {TABLE} ORDER BY _row"
    for _ in range(21):
        await store.commit([exporter.deliver(flows, 2)])
        before = run_query(database, question)
        while await store.merge():
            assert run_query(database, question) == before
    assert rows(database, "SELECT merges, count(*) FROM files WHERE removed_time IS NULL GROUP BY 1") == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    await store.sweep(datetime.now(UTC) + timedelta(hours=1))
    assert len(files(database)) == 3
    assert ports(database) == list(range(1, 43))


async def test_a_file_spans_little_of_its_retention_and_the_number_of_files_stays_bounded(
    tmp_path: Path, store: Store, database: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MERGED_AT_ONCE", 3)
    hourly = Flows(tmp_path, retention=3_600)
    exporter, start = Exporter(mesh), datetime.now(UTC)
    for second in range(0, 600, 10):
        await store.commit([exporter.deliver(hourly, 1, received_time=start + timedelta(seconds=second))])
        while await store.merge():
            pass
    spans = rows(
        database,
        "SELECT (julianday(last_received_time) - julianday(first_received_time)) * 86400 FROM files"
        " WHERE removed_time IS NULL",
    )
    assert max(span for (span,) in spans) < 3_600 / 50 + 1e-3
    # Two neighbours that may not be one span more than a fiftieth; fewer than three of a kind wait for more.
    assert len(spans) <= 2 * 600 / (3_600 / 50) + 2 * 2
    assert ports(database) == list(range(1, 61))


async def test_only_files_of_the_manifest_are_read_and_orphans_go_at_the_next_start(
    database: Path, flows: Flows, mesh: Mesh
) -> None:
    exporter = Exporter(mesh)
    async with Store(database) as store:
        await store.commit([exporter.deliver(flows)])
        (real,) = files(database)
        for name in ("lab_flows-000000000009-00000000.parquet", "lab_flows-1.parquet.unfinished"):
            (real.parent / name).write_bytes(real.read_bytes())
        note = real.parent / "README"
        note.write_text("not the writer's")
        assert ports(database) == [1, 2, 3]
    async with Store(database) as store:
        assert set(files(database)) == {real, note}
        assert ports(database) == [1, 2, 3]


async def test_nothing_can_be_opened_but_the_files_of_the_query_s_own_tables(
    tmp_path: Path, store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    await store.commit([Exporter(mesh).deliver(flows)])
    (real,) = files(database)
    orphan = real.with_name("lab_flows-orphan.parquet")
    orphan.write_bytes(real.read_bytes())
    stranger = tmp_path / "stranger.parquet"
    stranger.write_bytes(real.read_bytes())
    for sql in (
        f"SELECT * FROM '{orphan}'",
        f"SELECT * FROM '{stranger}'",
        f"SELECT * FROM '{real}'",
        f"SELECT * FROM '{real.parent}/*.parquet'",
        f"SELECT (SELECT count(*) FROM {TABLE}), * FROM '{stranger}'",
        f"SELECT * FROM read_parquet('{real}')",
        f"SELECT * FROM parquet_metadata('{real}')",
        f"SELECT content FROM {TABLE}, read_blob('{stranger}')",
    ):
        with pytest.raises(InvalidInput):
            run_query(database, sql)


async def test_files_are_for_nobody_else_to_read(
    store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    await store.commit([Exporter(mesh).deliver(flows)])
    (file,) = files(database)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


async def test_a_flipped_bit_anywhere_in_a_file_is_found_and_the_rest_stays_readable(
    store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    exporter = Exporter(mesh)
    for _ in range(3):
        await store.commit([exporter.deliver(flows)])
    victim = files(database)[1]
    sound = victim.read_bytes()
    for place in range(0, len(sound), max(1, len(sound) // 40)):
        flip(victim, place)
        answer = run_query(database, PORTS, verify=True)
        assert [port for (port,) in answer.rows] == [1, 2, 3, 7, 8, 9]
        (warning,) = answer.warnings
        assert str(victim) in warning and "3 rows of lab.flows are left out" in warning
        victim.write_bytes(sound)
    # One that is too short is noticed by every query.
    victim.write_bytes(sound[:-1])
    assert len(run_query(database, PORTS).warnings) == 1
    victim.unlink()
    assert len(run_query(database, PORTS).warnings) == 1
    victim.write_bytes(sound)
    assert run_query(database, PORTS, verify=True).warnings == ()


async def test_an_unreadable_file_says_how_to_leave_it_out(
    store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    await store.commit([Exporter(mesh).deliver(flows)])
    (file,) = files(database)
    # The last bytes say where everything else is.
    flip(file, file.stat().st_size - 1)
    with pytest.raises(InvalidInput, match=r"--verify finds it and leaves it out"):
        run_query(database, PORTS)


async def test_the_writer_merges_no_damaged_file_and_takes_a_good_copy_back(
    database: Path, flows: Flows, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MERGED_AT_ONCE", 3)
    exporter = Exporter(mesh)
    async with Store(database) as store:
        for _ in range(3):
            await store.commit([exporter.deliver(flows)])
        victim = files(database)[1]
        sound = victim.read_bytes()
        flip(victim, 100)
        await store.merge()
        assert not await store.merge()
        assert ports(database) == [1, 2, 3, 7, 8, 9]
        assert "its bytes are not those that were written" in run_query(database, PORTS).warnings[0]
    victim.write_bytes(sound)
    async with Store(database) as store:
        assert await store.merge()
    answer = run_query(database, PORTS, verify=True)
    assert ([port for (port,) in answer.rows], answer.warnings) == (list(range(1, 10)), ())


# The first is too little for the file. The second is enough, but SQLite's log has grown beyond it already.
@pytest.mark.parametrize(("size", "left"), [(20_000, 0), (100_000, 1)])
async def test_a_full_disk_stores_nothing_piles_nothing_up_and_is_over_when_there_is_space(
    size: int, left: int, store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    exporter = Exporter(mesh)
    await store.commit([exporter.deliver(flows)])
    before = files(database)
    many = exporter.deliver(flows, 30_000)
    with files_end_at(size):
        for _ in range(3):
            with pytest.raises(Unavailable, match="check the disk's space"):
                await store.commit([many])
    assert len(files(database)) == len(before) + left
    assert ports(database) == [1, 2, 3]
    await store.commit([many])
    assert ports(database) == list(range(1, 30_004))
    assert len(files(database)) == 2


async def test_other_tools_read_the_files_that_the_manifest_names(
    store: Store, database: Path, flows: Flows, mesh: Mesh
) -> None:
    exporter = Exporter(mesh)
    for _ in range(2):
        await store.commit([exporter.deliver(flows)])
    named = rows(database, "SELECT file FROM files WHERE removed_time IS NULL AND damage IS NULL")
    paths = [str(Directory(database).path / name) for (name,) in named]
    with duckdb.connect() as anything:
        found = anything.execute("SELECT count(*), max(_row) FROM read_parquet(?)", [paths]).fetchall()
    assert found == [(6, 6)]


async def test_a_database_of_before_there_were_files_is_opened(
    database: Path, flows: Flows, mesh: Mesh
) -> None:
    async with Store(database) as store:
        await store.foresee(flows.contract, flows.schema)
    connection = sqlite3.connect(database)
    connection.executescript("ALTER TABLE products DROP COLUMN store; DROP TABLE files; DROP TABLE columns;")
    connection.execute("DELETE FROM products")
    connection.commit()
    connection.close()
    assert run_query(database, "SELECT count(*) FROM products").rows == [(0,)]
    async with Store(database) as store:
        await store.commit([Exporter(mesh).deliver(flows)])
    assert ports(database) == [1, 2, 3]


def test_an_inventory_cannot_be_in_files(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "protos/telltale/api/servers/v1/units.proto").read_text()
    changed = text.replace("kind: KIND_INVENTORY", "kind: KIND_INVENTORY store: STORE_COLUMNS")
    assert changed != text
    with pytest.raises(InvalidInput, match="remove the option `store`"):
        contracts_in(compile_product(tmp_path, "servers", "units.proto", changed))
