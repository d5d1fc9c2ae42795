import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.writer.store import Store
from telltale.api.mesh.v1.batch_pb2 import (
    Gap,
    GapReason,
    Hole,
    HoleReason,
    Loss,
    LossReason,
    Position,
    SealedBatch,
)
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.cli.history import gaps
from telltale.consume.chains import Chains
from telltale.consume.delivered import Delivered, Missing
from telltale.errors import BatchRefused
from telltale.seal.sealing import sha256
from telltale.seal.verify import MAX_HOLES, MAX_LOSSES
from tests.support.batches import Chain, disk_usage
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


def rows(database: Path, question: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(question, values).fetchall()
    finally:
        connection.close()


def chain_of(mesh: Mesh, epoch: int = 1_000) -> Chain:
    return Chain(mesh.credentials("servers", "/agent/web1"), epoch=epoch)


async def test_a_record_becomes_a_row_with_where_it_came_from(
    store: Store, database: Path, mesh: Mesh
) -> None:
    item = Log().deliver(chain_of(mesh).next([disk_usage("/", 0.25, AT)]), received_time=AT)
    tally = await store.commit([item])
    assert (tally.batches, tally.records, tally.refused) == (1, 1, [])
    (row,) = rows(
        database,
        "SELECT time, mountpoint, used_ratio, total_inodes, _source, _epoch, _sequence, _log, _offset,"
        " _received_time, _verified, _origin, _replay_run FROM servers_disk_usage",
    )
    moment = "2026-03-04 05:06:07.890123"
    source = "spiffe://servers.telltale.test/agent/web1"
    assert row == (
        moment,
        "/",
        0.25,
        None,
        source,
        1_000,
        1,
        "a",
        1,
        moment,
        "VERIFIED",
        "AUTHENTICATED",
        None,
    )
    assert rows(database, "SELECT product, table_name, kind, records, batches FROM products") == [
        ("servers.disk_usage", "servers_disk_usage", "SAMPLES", 1, 1)
    ]


async def test_the_cursor_moves_with_the_rows_and_survives_a_restart(database: Path, mesh: Mesh) -> None:
    chain, log = chain_of(mesh), Log()
    async with Store(database) as store:
        await store.commit([log.deliver(chain.next([disk_usage("/")])) for _ in range(3)])
    async with Store(database) as store:
        assert [(p.product, p.log, p.offset) for p in (await store.cursor()).positions] == [
            ("servers.disk_usage", "a", 3)
        ]
        (known,) = await store.chains()
        assert (known.head.epoch, known.head.sequence, known.head.header_sha256) == (1_000, 3, chain.previous)


async def test_a_batch_delivered_again_in_another_log_is_stored_once(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain = chain_of(mesh)
    batches = [chain.next([disk_usage("/"), disk_usage("/var")]) for _ in range(4)]
    chains = Chains()
    first, second = Log("a", chains), Log("b", chains)
    await store.commit([first.deliver(batch) for batch in batches])
    tally = await store.commit([second.deliver(batch) for batch in batches])
    assert (tally.batches, tally.duplicates, tally.refused) == (0, 4, [])
    assert rows(database, "SELECT count(*) FROM servers_disk_usage") == [(8,)]
    assert rows(database, 'SELECT log, "offset" FROM cursors ORDER BY log') == [("a", 4), ("b", 4)]


async def test_a_batch_of_an_earlier_epoch_that_comes_again_is_a_duplicate_and_no_finding(
    store: Store, database: Path, mesh: Mesh
) -> None:
    old, new = chain_of(mesh, epoch=1_000), chain_of(mesh, epoch=2_000)
    new.credentials = old.credentials
    first, unknown = old.next([disk_usage("/old")]), old.next([disk_usage("/unknown")])
    log = Log()
    await store.commit([log.deliver(first), log.deliver(new.next([disk_usage("/new")]))])
    stale = BatchRefused(RefusalReason.REFUSAL_REASON_STALE_EPOCH, "a later chain is known")
    again = Log("b", log.chains)
    tally = await store.commit([again.deliver(first, refused=stale), again.deliver(unknown, refused=stale)])
    assert (tally.batches, tally.duplicates, len(tally.refused)) == (0, 1, 1)
    assert rows(database, "SELECT sequence, reason FROM quarantine") == [(2, "STALE_EPOCH")]


async def test_another_batch_in_the_same_place_is_a_fork_and_goes_to_quarantine(
    store: Store, database: Path, mesh: Mesh
) -> None:
    one, other, log = chain_of(mesh), chain_of(mesh), Log()
    other.credentials = one.credentials
    await store.commit([log.deliver(one.next([disk_usage("/")])), log.deliver(one.next([disk_usage("/")]))])
    tally = await store.commit([log.deliver(other.next([disk_usage("/forged")]))])
    assert [refused.reason for _, refused in tally.refused] == [RefusalReason.REFUSAL_REASON_FORK]
    assert rows(database, "SELECT reason, sequence, signed FROM quarantine") == [("FORK", 1, 1)]
    assert rows(database, "SELECT count(*) FROM servers_disk_usage WHERE mountpoint = '/forged'") == [(0,)]


async def test_undeclared_missing_batches_are_written_down_and_filled_when_they_turn_up(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    batches = [chain.next([disk_usage(f"/{n}")]) for n in range(1, 6)]
    await store.commit([log.deliver(batches[0]), log.deliver(batches[4])])
    question = "SELECT first_sequence, last_sequence, reason FROM holes ORDER BY 1"
    assert rows(database, question) == [(2, 4, "UNDECLARED")]
    assert rows(database, "SELECT _verified FROM servers_disk_usage WHERE mountpoint = '/5'") == [
        ("VERIFIED_AFTER_BREAK",)
    ]
    await store.commit([log.deliver(batches[2])])
    assert rows(database, question) == [(2, 2, "UNDECLARED"), (4, 4, "UNDECLARED")]
    assert rows(database, "SELECT mountpoint FROM servers_disk_usage ORDER BY 1") == [
        ("/1",),
        ("/3",),
        ("/5",),
    ]


async def test_declared_holes_and_losses_are_known_and_no_break(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    first = chain.next([disk_usage("/")])
    chain.sequence = 4
    hole = Hole(first_sequence=2, last_sequence=4, records=30, reason=HoleReason.HOLE_REASON_SHED)
    loss = Loss(records=7, reason=LossReason.LOSS_REASON_METHOD, detail="short-lived ones are missed")
    later = chain.next([disk_usage("/")], holes=[hole], losses=[loss])
    await store.commit([log.deliver(first), log.deliver(later)])
    assert rows(database, "SELECT first_sequence, last_sequence, records, reason FROM holes") == [
        (2, 4, 30, "SHED")
    ]
    assert rows(database, "SELECT sequence, records, reason, detail FROM losses") == [
        (5, 7, "METHOD", "short-lived ones are missed")
    ]
    assert rows(database, "SELECT DISTINCT _verified FROM servers_disk_usage") == [("VERIFIED",)]


async def test_every_hole_and_loss_that_a_header_may_declare_is_kept(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    first = chain.next([disk_usage("/")])
    # Every other batch is given up; those between come with what a reader has not been told of.
    chain.sequence = 2 * MAX_HOLES + 1
    holes = [
        Hole(first_sequence=at, last_sequence=at, records=1, reason=HoleReason.HOLE_REASON_REFUSED)
        for at in range(2, 2 * MAX_HOLES + 2, 2)
    ]
    losses = [Loss(records=1, reason=LossReason.LOSS_REASON_METHOD) for _ in range(MAX_LOSSES)]
    later = chain.next([disk_usage("/")], holes=holes, losses=losses)
    await store.commit([log.deliver(first), log.deliver(later)])
    assert rows(database, "SELECT reason, count(*), sum(records) FROM holes GROUP BY 1 ORDER BY 1") == [
        ("REFUSED", MAX_HOLES, MAX_HOLES),
        ("UNDECLARED", MAX_HOLES, None),
    ]
    assert rows(database, "SELECT count(*) FROM losses") == [(MAX_LOSSES,)]


async def test_a_gap_is_a_row_and_explains_what_is_missing_after_it(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    batches = [chain.next([disk_usage("/")]) for _ in range(9)]
    await store.commit([log.deliver(batches[0])])
    gap = Gap(
        reason=GapReason.GAP_REASON_LOG_REPLACED,
        product=chain.product,
        log="a",
        after_offset=1,
        resumed=Position(product=chain.product, log="b", offset=1),
    )
    log.chains.gap(chain.product)
    after = Log("b", log.chains)
    tally = await store.commit([Missing(gap), after.deliver(batches[8])])
    assert tally.gaps == 1
    assert rows(database, "SELECT log, after_offset, reason, resumed_log FROM gaps") == [
        ("a", 1, "LOG_REPLACED", "b")
    ]
    # `telltale status` shows it from there.
    (shown,) = gaps(database)
    assert (shown.product, shown.reason, shown.gaps) == (chain.product, "log_replaced", 1)
    assert rows(database, "SELECT first_sequence, last_sequence, reason FROM holes") == [(2, 8, "GAP")]
    assert rows(database, 'SELECT log, "offset" FROM cursors') == [("b", 1)]


async def test_a_gap_that_retention_has_left_is_a_row_and_status_shows_it(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    batches = [chain.next([disk_usage("/")]) for _ in range(9)]
    await store.commit([log.deliver(batches[0])])
    log.offset = 8
    gap = Gap(
        reason=GapReason.GAP_REASON_RETENTION,
        product=chain.product,
        log=log.name,
        after_offset=1,
        resumed=Position(product=chain.product, log=log.name, offset=9),
    )
    log.chains.gap(chain.product)
    await store.commit([Missing(gap), log.deliver(batches[8])])
    assert rows(database, "SELECT after_offset, reason, resumed_offset FROM gaps") == [(1, "RETENTION", 9)]
    (shown,) = gaps(database)
    assert (shown.product, shown.reason, shown.gaps) == (chain.product, "retention", 1)
    assert rows(database, "SELECT first_sequence, last_sequence, reason FROM holes") == [(2, 8, "GAP")]


async def test_what_does_not_decode_is_kept_in_quarantine_and_the_rest_is_stored(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    good = chain.next([disk_usage("/good")])
    broken = SealedBatch(header=chain.next([disk_usage("/")]).header, signature=b"s", payload=b"\x0a\xff")
    lying = chain.next([disk_usage("/")], record_count=9)
    last = chain.next([disk_usage("/last")])
    tally = await store.commit([log.deliver(batch) for batch in (good, broken, lying, last)])
    assert tally.batches == 2
    assert rows(database, "SELECT sequence, reason, payload FROM quarantine ORDER BY sequence") == [
        (2, "MALFORMED", b"\x0a\xff"),
        (3, "MALFORMED", lying.payload),
    ]
    assert rows(database, "SELECT mountpoint FROM servers_disk_usage ORDER BY 1") == [("/good",), ("/last",)]
    # They have their place in the chain: nothing is missing.
    assert rows(database, "SELECT count(*) FROM holes") == [(0,)]


async def test_quarantine_keeps_the_whole_header_and_a_bounded_part_of_the_payload(
    store: Store, database: Path, mesh: Mesh
) -> None:
    batch = chain_of(mesh).next([disk_usage("x" * 300_000)], record_count=2)
    (refused,) = (await store.commit([Log().deliver(batch)])).refused
    assert refused[0].batch == batch
    assert rows(
        database, "SELECT header, signature, payload, payload_bytes, header_sha256, detail FROM quarantine"
    ) == [
        (
            batch.header,
            batch.signature,
            batch.payload[: 64 << 10],
            len(batch.payload),
            sha256(batch.header).hex(),
            "its header says 2 records and its payload holds 1",
        )
    ]


async def test_a_refused_batch_is_quarantined_once_however_often_it_comes(
    store: Store, database: Path, mesh: Mesh
) -> None:
    refused = BatchRefused(RefusalReason.REFUSAL_REASON_SIGNATURE, "the signature does not fit the header")
    item = Log().deliver(chain_of(mesh).next([disk_usage("/")]), refused=refused)
    item = Delivered(**{**item.__dict__, "signed": False})
    assert len((await store.commit([item])).refused) == 1
    assert (await store.commit([item])).refused == []
    assert rows(database, "SELECT reason, signed FROM quarantine") == [("SIGNATURE", 0)]
    assert await store.chains() == []


async def test_retention_removes_old_rows_and_remembers_that_they_were_stored(
    store: Store, database: Path, mesh: Mesh, now: Callable[[], datetime]
) -> None:
    chain, chains = chain_of(mesh), Chains()
    log = Log("a", chains)
    old = [chain.next([disk_usage("/old")]) for _ in range(3)]
    long_ago = now() - timedelta(days=31)
    await store.commit([log.deliver(batch, received_time=long_ago) for batch in old])
    await store.commit([log.deliver(chain.next([disk_usage("/new")]))])
    assert await store.prune(now()) == 3
    assert rows(database, "SELECT mountpoint FROM servers_disk_usage") == [("/new",)]
    tally = await store.commit([Log("b", chains).deliver(batch) for batch in old])
    assert (tally.batches, tally.duplicates) == (0, 3)
    assert (await store.chains())[0].head.sequence == 4
