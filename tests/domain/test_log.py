"""The product log keeps what it acked, in order, once; and an inventory's state is what its source said."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch, Snapshot
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.domain import inventory
from telltale.domain.inventory import Change, Query
from telltale.domain.log import Candidate, ProductLog
from telltale.errors import BatchRefused
from tests.support.log_chain import PRODUCT, SCHEMA, SOURCE, Chain


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[ProductLog]:
    async with ProductLog(tmp_path / "log.db") as made:
        await made.add_schema(SCHEMA)
        yield made


def reason(refused: BatchRefused | None) -> RefusalReason | None:
    return refused.reason if refused is not None else None


async def test_batches_come_back_in_order_with_their_delivery(log: ProductLog) -> None:
    chain = Chain()
    assert await log.append([chain.next() for _ in range(5)]) == [None] * 5
    entries = await log.after(PRODUCT, 0, 1 << 20)
    batches = [SealedBatch.FromString(entry.batch) for entry in entries]
    assert [Header.FromString(batch.header).sequence for batch in batches] == [1, 2, 3, 4, 5]
    assert all(batch.delivery and batch.payload == b"payload" for batch in batches)
    assert await log.certificates_of(entries[0].signer) == (b"leaf", b"issuer")


async def test_a_batch_pushed_again_is_acked_and_kept_once(log: ProductLog) -> None:
    one = Chain().next()
    assert await log.append([one, one]) == [None, None]
    assert await log.append([one]) == [None]
    assert len(await log.after(PRODUCT, 0, 1 << 20)) == 1


async def test_another_batch_in_the_same_place_is_a_fork(log: ProductLog) -> None:
    chain, clone = Chain(), Chain()
    await log.append([chain.next(), chain.next()])
    forked = clone.next(snapshot=Snapshot(id="other"))
    assert reason((await log.append([forked]))[0]) == RefusalReason.REFUSAL_REASON_FORK
    following = clone.next()
    assert reason((await log.append([following]))[0]) == RefusalReason.REFUSAL_REASON_FORK
    third = clone.next()
    assert reason((await log.append([third]))[0]) == RefusalReason.REFUSAL_REASON_FORK
    assert len(await log.after(PRODUCT, 0, 1 << 20)) == 2


async def test_a_gap_is_taken_and_what_comes_too_late_is_not_acked(log: ProductLog) -> None:
    chain = Chain()
    first, late = chain.next(), chain.next()
    after = chain.next(skip=1)
    assert await log.append([first, after]) == [None, None]
    assert reason((await log.append([late]))[0]) == RefusalReason.REFUSAL_REASON_BROKEN_CHAIN


async def test_a_stale_epoch_is_refused_for_now(log: ProductLog) -> None:
    await log.append([Chain(epoch=5).next()])
    (refused,) = await log.append([Chain(epoch=4).next()])
    assert reason(refused) == RefusalReason.REFUSAL_REASON_STALE_EPOCH
    assert refused is not None and not refused.final


async def test_a_chain_begins_at_most_five_minutes_ahead_and_leaves_nobody_behind(log: ProductLog) -> None:
    now = time.time_ns() // 1_000_000
    (raised,) = await log.append([Chain(epoch=now + 3_600_000).next()])
    assert reason(raised) == RefusalReason.REFUSAL_REASON_FUTURE
    assert raised is not None and not raised.final and "set the clock of spiffe://" in raised.detail
    assert await log.heads(SOURCE) == []
    assert await log.append([Chain(epoch=now + 240_000).next()]) == [None]
    # Whoever begins anew begins above the known epoch, wherever it lies.
    assert await log.append([Chain(epoch=now + 240_001).next()]) == [None]


async def test_a_chain_that_was_raised_by_years_has_a_next_one(log: ProductLog) -> None:
    far = time.time_ns() // 1_000_000 + 10**12
    raised = Chain(epoch=far)
    with pytest.MonkeyPatch.context() as patched:
        real = time.time_ns
        patched.setattr(time, "time_ns", lambda: real() + 10**18)
        assert await log.append([raised.next()]) == [None]
    assert await log.append([raised.next()]) == [None]
    assert await log.append([Chain(epoch=far + 1).next()]) == [None]
    (higher,) = await log.append([Chain(epoch=far + 3).next()])
    assert reason(higher) == RefusalReason.REFUSAL_REASON_FUTURE


async def test_an_older_chain_that_is_sealed_on_after_a_later_one_began_has_two_holders(
    log: ProductLog,
) -> None:
    older, later = Chain(epoch=4), Chain(epoch=5)
    await log.append([older.next(sealed=10), later.next(sealed=20), later.next(sealed=40)])
    # What was on its way when the later chain began is stale and nothing else.
    (late,) = await log.append([older.next(sealed=20)])
    (contested,) = await log.append([older.next(sealed=21)])
    assert reason(late) == RefusalReason.REFUSAL_REASON_STALE_EPOCH
    assert reason(contested) == RefusalReason.REFUSAL_REASON_FORK
    assert contested is not None and not contested.final and "two hosts use one identity" in contested.detail


async def test_a_chain_goes_on_behind_a_refused_batch(log: ProductLog) -> None:
    chain = Chain()
    bad = chain.next()
    refused = BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, "bad")
    rejected = Candidate(bad.header, bad.header_sha256, b"", (), refused=refused)
    assert await log.append([rejected, chain.next()]) == [refused, None]
    assert await log.append([rejected]) == [refused]


async def test_a_chain_is_remembered_though_retention_passed(log: ProductLog) -> None:
    chain = Chain(product="servers.disk_usage")
    one = chain.next()
    await log.append([one])
    extent = await log.extent("servers.disk_usage")
    await asyncio.sleep(0.002)  # the clock must have moved past the batch
    assert await log.prune({"servers.disk_usage": timedelta(0)}) == 1
    assert await log.append([one]) == [None]
    assert await log.after("servers.disk_usage", 0, 1 << 20) == []
    assert (await log.extent("servers.disk_usage")).pruned_through == extent.latest


async def test_arrival_is_announced(log: ProductLog) -> None:
    arrival = log.arrival(PRODUCT)
    await log.append([Chain().next()])
    await arrival.wait()


async def test_arrival_is_announced_though_the_one_who_pushed_has_gone(log: ProductLog) -> None:
    arrival = log.arrival(PRODUCT)
    log.append([Chain().next()]).cancel()
    async with asyncio.timeout(10):
        await arrival.wait()
    assert len(await log.after(PRODUCT, 0, 1 << 20)) == 1


async def test_a_batch_that_was_refused_is_never_acked_without_being_kept(log: ProductLog) -> None:
    chain = Chain()
    bad = chain.next()
    refused = BatchRefused(RefusalReason.REFUSAL_REASON_PERMISSION, "not yours")
    await log.append([replace(bad, refused=refused)])
    assert reason((await log.append([bad]))[0]) == RefusalReason.REFUSAL_REASON_BROKEN_CHAIN


async def test_what_a_clone_declared_lost_is_not_acked_for_the_original(log: ProductLog) -> None:
    chain = Chain()
    first, second, third = chain.next(), chain.next(), chain.next()
    third.header.holes.add(first_sequence=2, last_sequence=2)
    assert await log.append([first, third]) == [None, None]
    assert reason((await log.append([second]))[0]) == RefusalReason.REFUSAL_REASON_BROKEN_CHAIN


async def test_what_follows_a_batch_that_was_not_taken_waits_for_it(log: ProductLog) -> None:
    chain = Chain()
    first, second, third = chain.next(), chain.next(), chain.next()
    assert await log.append([first]) == [None]
    (refused,) = await log.append([replace(third, follows=2)])
    assert refused is not None and not refused.final
    assert await log.append([second, replace(third, follows=2)]) == [None, None]


async def test_what_never_came_is_not_acked_however_much_is_missing(log: ProductLog) -> None:
    chain = Chain()
    late = []
    for _ in range(600):
        late.append(chain.next())
        await log.append([chain.next()])
    late = late[1:]  # before the first batch that came, nothing is known to be missing
    reasons = {reason(refused) for refused in await log.append(late)}
    assert reasons == {RefusalReason.REFUSAL_REASON_BROKEN_CHAIN}


async def test_the_state_at_an_offset_is_whole_though_a_later_snapshot_replaced_it(log: ProductLog) -> None:
    chain = Chain()
    await log.append([chain.next(Change({b"a": b"1"}), Snapshot(id="s", end=True))])
    await log.append([chain.next(Change({b"a": b"2"}), Snapshot(id="t", index=0))])
    through = (await log.extent(PRODUCT)).latest
    await log.append([chain.next(Change({b"b": b"2"}), Snapshot(id="t", index=1, end=True))])
    entries = (await log.state_after(PRODUCT, 0, through, 1 << 20)).entries
    headers = [Header.FromString(SealedBatch.FromString(entry.batch).header) for entry in entries]
    assert [header.snapshot.id for header in headers] == ["s", "t"]


async def state(log: ProductLog, source: str = SOURCE) -> dict[bytes, bytes]:
    page = await log.page(Query(PRODUCT, None, None, 1_000))
    return {row.key: row.record for row in page.rows if row.source == source}


async def test_a_snapshot_that_lacks_a_part_changes_nothing(log: ProductLog) -> None:
    chain = Chain()
    await log.append([chain.next(Change({b"a": b"1"}), Snapshot(id="s", index=0, end=True))])
    parts = [
        chain.next(Change({b"b": b"1"}), Snapshot(id="t", index=0)),
        chain.next(Change({b"c": b"1"}), Snapshot(id="t", index=2, end=True), skip=1),
    ]
    assert await log.append(parts) == [None, None]
    assert await state(log) == {b"a": b"1"}


async def test_retention_keeps_what_the_state_needs(log: ProductLog) -> None:
    chain = Chain()
    for name in ("s", "t"):
        await log.append([chain.next(Change({b"a": b"1"}), Snapshot(id=name, end=True))])
    await log.append([chain.next(Change({b"b": b"1"}))])
    await asyncio.sleep(0.002)  # the clock must have moved past the batches
    await log.prune({PRODUCT: timedelta(0)})
    left = await log.state_after(PRODUCT, 0, 1 << 40, 1 << 20)
    headers = [Header.FromString(SealedBatch.FromString(entry.batch).header) for entry in left.entries]
    assert [header.snapshot.id for header in headers] == ["t", ""]


async def test_bytes_beyond_the_bound_are_taken_from_the_product_that_has_most(log: ProductLog) -> None:
    quiet, flood, state = Chain(product="servers.cpu"), Chain(product="servers.memory"), Chain()
    await log.append([state.next(Change({b"a": b"1"}), Snapshot(id="s", end=True), payload=b"x" * 9_000)])
    await log.append([quiet.next(payload=b"x" * 900) for _ in range(5)])
    await log.append([flood.next(payload=b"x" * 900) for _ in range(50)])
    before = await log.bytes()
    assert await log.prune({}, 25_000) > 0
    assert 24_000 < await log.bytes() <= 25_000 < before
    assert len(await log.after("servers.cpu", 0, 1 << 20)) == 5
    assert len(await log.after(PRODUCT, 0, 1 << 20)) == 1
    left = await log.after("servers.memory", 0, 1 << 20)
    # The oldest went, and who stands before them is told so.
    assert 0 < len(left) < 50
    assert (await log.extent("servers.memory")).pruned_through == left[0].offset - 1
    # What the state of an inventory needs stays, whatever the bound says.
    assert await log.prune({}, 1) > 0
    assert len(await log.after(PRODUCT, 0, 1 << 20)) == 1


async def test_pages_show_the_state_at_one_position(log: ProductLog) -> None:
    chain = Chain()
    await log.append([chain.next(Change({b"a": b"1", b"b": b"1"}), Snapshot(id="s", end=True))])
    first = await log.page(Query(PRODUCT, None, None, 1))
    await log.append([chain.next(Change({b"b": b"2", b"c": b"2"}))])
    second = await log.page(Query(PRODUCT, first.position, first.rows[-1].place, 10))
    assert [(row.key, row.record) for row in second.rows] == [(b"b", b"1")]


async def test_a_page_ends_before_it_is_too_large_for_a_message(log: ProductLog) -> None:
    change = Change({bytes([65 + number]): b"x" * 400_000 for number in range(5)})
    await log.append([Chain().next(change, Snapshot(id="s", end=True))])
    first = await log.page(Query(PRODUCT, None, None, 10))
    assert [row.key for row in first.rows] == [b"A", b"B", b"C"] and not first.complete
    second = await log.page(Query(PRODUCT, first.position, first.rows[-1].place, 10))
    assert [row.key for row in second.rows] == [b"D", b"E"] and second.complete


async def test_a_busy_inventory_ends_the_pages_of_no_other(
    log: ProductLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "PAGE_LIFE_MS", -1_000)
    quiet, busy = Chain(), Chain(product="servers.units")
    await log.append([quiet.next(Change({b"a": b"1", b"b": b"1"}), Snapshot(id="s", end=True))])
    first = await log.page(Query(PRODUCT, None, None, 1))
    for value in (b"1", b"2"):
        await log.append([busy.next(Change({b"a": value}))])
    await log.prune({})
    assert not (await log.page(Query(PRODUCT, first.position, first.rows[-1].place, 1))).expired
    assert (await log.page(Query("servers.units", first.position, None, 1))).expired


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
RECORDS = st.dictionaries(KEYS, st.sampled_from([b"1", b"2"]), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("delta"), RECORDS, st.lists(KEYS, max_size=2)),
        st.tuples(st.just("snapshot"), RECORDS, st.integers(1, 3)),
        st.tuples(st.just("unfinished"), RECORDS, st.integers(1, 3)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
async def test_the_state_is_the_last_whole_snapshot_and_the_deltas_since(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, dict[bytes, bytes], object]]
) -> None:
    expected: dict[bytes, bytes] = {}
    chain = Chain()
    async with ProductLog(tmp_path_factory.mktemp("log") / "log.db") as log:
        await log.add_schema(SCHEMA)
        for number, (kind, records, detail) in enumerate(steps):
            if kind == "delta":
                assert isinstance(detail, list)
                await log.append([chain.next(Change(records, detail))])
                expected.update(records)
                for key in detail:
                    expected.pop(key, None)
                continue
            assert isinstance(detail, int)
            items = list(records.items())
            for index in range(detail):
                end = kind == "snapshot" and index == detail - 1
                place = Snapshot(id=str(number), index=index, end=end)
                await log.append([chain.next(Change(dict(items[index::detail])), place)])
            if kind == "snapshot":
                expected = dict(records)
        assert await state(log) == expected
