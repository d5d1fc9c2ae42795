"""The join of an owner's log and the ring, under random speeds, restarts, retention and replaced logs."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import fanout, feed
from gateway.fanout import Follower, Subscriber
from gateway.feed import Feed
from gateway.frames import FrameReader
from gateway.ring import Ring
from telltale.api.mesh.v1.batch_pb2 import Delivery, GapReason, Position, SealedFrame
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.contract import Contract
from telltale.errors import InvalidInput
from tests.gateway.fakelog import PRODUCT, FakeLog

# A product's contract is looked at for its name only.
CONTRACT = cast(Contract, SimpleNamespace(name=PRODUCT))
Told = tuple[str, int]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "backoff", lambda attempt: 0.0)
    monkeypatch.setattr(fanout, "backoff", lambda attempt: 0.0)


class Reader:
    """A subscriber that takes what it wants when it wants, and checks each step against the log's truth."""

    def __init__(self, feed: Feed, start: Start = Start.START_EARLIEST) -> None:
        self.told: list[Told] = []
        self.gaps: list[Any] = []
        # Where the stream began, for who started at the latest.
        self.place: Told | None = None
        self._feed = feed
        self._start = start
        self._subscriber = Subscriber()
        self._turns = asyncio.Semaphore(2)
        self._cursor: list[Position] = []
        self._open()

    def _open(self) -> None:
        self._subscriber = Subscriber()
        self.follower = Follower(self._feed, self._subscriber, self._turns, self._cursor, self._start)
        self._run = asyncio.create_task(self.follower.run())

    def take(self) -> bool:
        if self._run.done():
            self._run.result()
        data = self.follower.take()
        if data is None:
            return False
        frame = SealedFrame.FromString(data)
        if frame.HasField("gap"):
            self.gaps.append(frame.gap)
            self.told.append(("gap", len(self.gaps) - 1))
        for batch in frame.batches:
            delivery = Delivery.FromString(batch.delivery)
            self.told.append((delivery.log, delivery.offset))
            self._cursor = [Position(product=PRODUCT, log=delivery.log, offset=delivery.offset)]
        if frame.HasField("sync"):
            assert self._start == Start.START_LATEST and self.place is None and not self.told
            self.place = frame.sync.position.log, frame.sync.position.offset
            self._cursor = [frame.sync.position]
        return True

    async def close(self) -> None:
        self._run.cancel()
        await asyncio.gather(self._run, return_exceptions=True)

    async def reconnect(self) -> None:
        """Comes back with the cursor of what it has seen."""
        await self.close()
        self._open()

    async def leave_and_rejoin(self) -> None:
        """What the gateway does when an owner's permission comes and goes: the stream itself goes on."""
        await self.close()
        self._cursor = self.follower.cursor
        self._open()


class Lagging:
    """The same log, read over a connection that is sometimes slow: others may be ahead of it."""

    def __init__(self, log: FakeLog, turns: int) -> None:
        self._log = log
        self._turns = turns

    async def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._log.read(cursor, start)) as frames:
            async for frame in frames:
                for _ in range(self._log.chance.randint(0, self._turns)):
                    await asyncio.sleep(0)
                yield frame


@asynccontextmanager
async def feeding(log: FakeLog, ring_bytes: int = 10_000, lag: int = 0) -> AsyncIterator[Feed]:
    one = Feed(CONTRACT, Lagging(log, lag), log, Ring(ring_bytes))
    run = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def until(condition: Any, *readers: Reader) -> None:
    """Lets everybody work until the condition holds."""
    # Pauses between attempts grow to 15 seconds for whoever was cut off often.
    async with asyncio.timeout(60):
        while not condition():
            for reader in readers:
                reader.take()
            await asyncio.sleep(0)


def require_no_hole_and_no_repeat(reader: Reader, log: FakeLog, since: int = 0) -> None:
    """What was told is what was appended, in order; whatever is left out has a gap in its place."""
    truth = log.appended[since:]
    batches = [told for told in reader.told if told[0] != "gap"]
    assert len(set(batches)) == len(batches), "a batch came twice"
    place = 0
    # Who never had a position begins with what is kept at that moment.
    excused = since == 0 and bool(batches) and batches[0] in log.firsts
    for told in reader.told:
        if told[0] == "gap":
            excused = True
            continue
        if told != truth[place]:
            assert excused, f"{truth[place]} is missing before {told} and no gap says so"
            place = truth.index(told, place)
        place += 1
        excused = False
    assert place == len(truth) or excused, f"the end is missing from {truth[place]} on"


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_catch_up_and_live_join_without_hole_or_repeat(seed: int) -> None:
    asyncio.run(_schedule(seed))


async def _schedule(seed: int) -> None:
    chance = random.Random(seed)
    log = FakeLog(random.Random(seed + 1))
    log.append(chance.randint(0, 30))
    # A ring of a few batches: everybody falls out of it now and then.
    async with feeding(log, chance.choice((700, 3_000, 20_000)), lag=chance.choice((0, 5, 50))) as one:
        readers = [Reader(one), Reader(one), Reader(one, Start.START_LATEST)]
        speeds = [chance.random() for _ in readers]
        for _ in range(chance.randint(20, 120)):
            match chance.choices(
                ("append", "work", "cut", "replace", "prune", "reconnect", "leave"), (30, 50, 6, 2, 4, 8, 4)
            )[0]:
                case "append":
                    log.append(chance.randint(1, 12))
                case "work":
                    for _ in range(chance.randint(1, 30)):
                        await asyncio.sleep(0)
                        for reader, speed in zip(readers, speeds, strict=True):
                            if chance.random() < speed:
                                reader.take()
                case "cut":
                    log.cut()
                case "replace":
                    log.replace()
                case "prune":
                    log.prune(chance.randint(0, 8))
                case "reconnect":
                    await chance.choice(readers).reconnect()
                case "leave":
                    leaver = chance.choice(readers)
                    # Told its place or nothing yet: what is between cannot be seen from outside.
                    if leaver.place or leaver is not readers[2]:
                        await leaver.leave_and_rejoin()
        # Whatever happened, everybody arrives at the log's end.
        await until(lambda: readers[2].place, *readers)
        log.append()
        last = log.appended[-1]
        await until(lambda: all(reader.told and reader.told[-1] == last for reader in readers), *readers)
        for reader in readers:
            require_no_hole_and_no_repeat(reader, log, since(reader, log))
            await reader.close()
        assert one.subscribers == 0


def since(reader: Reader, log: FakeLog) -> int:
    """How much was there before the place at which the reader was told that it begins."""
    if reader.place is None:
        return 0
    name, offset = reader.place
    return sum(
        len(one) < len(name) or one < name or (one == name and at <= offset) for one, at in log.appended
    )


async def test_who_keeps_up_reads_the_ring_only(caplog: pytest.LogCaptureFixture) -> None:
    log = FakeLog(random.Random(1))
    async with feeding(log) as one:
        reader = Reader(one)
        await until(lambda: reader.follower.live, reader)
        before = log._era
        log.append(50)
        await until(lambda: len(reader.told) == 50, reader)
        assert reader.follower.live and log._era == before
        await reader.close()


async def test_a_stalled_subscriber_falls_out_of_the_ring_and_holds_up_nobody() -> None:
    log = FakeLog(random.Random(2))
    async with feeding(log, ring_bytes=3_000) as one:
        fast, slow = Reader(one), Reader(one)
        await until(lambda: fast.follower.live and slow.follower.live)
        for _ in range(20):
            log.append(20)
            await until(lambda: fast.told[-1:] == log.appended[-1:], fast)
        assert one.ring.bytes <= 3_000
        assert slow.told == []
        await until(lambda: slow.told[-1:] == log.appended[-1:], slow)
        require_no_hole_and_no_repeat(slow, log)
        require_no_hole_and_no_repeat(fast, log)
        await fast.close()
        await slow.close()


async def test_latest_starts_with_what_arrives_next() -> None:
    log = FakeLog(random.Random(3))
    log.append(10)
    async with feeding(log) as one:
        await until(lambda: one.ring.log)
        reader = Reader(one, Start.START_LATEST)
        log.append(5)
        await until(lambda: len(reader.told) == 5, reader)
        require_no_hole_and_no_repeat(reader, log, since=10)
        await reader.close()


async def test_a_restart_of_an_idle_domain_loses_nothing_for_who_started_at_the_latest() -> None:
    log = FakeLog(random.Random(4))
    log.append(10)
    async with feeding(log) as one:
        await until(lambda: one.ring.log)
        reader = Reader(one, Start.START_LATEST)
        log.cut()
        log.append(5)
        await until(lambda: len(reader.told) == 5, reader)
        require_no_hole_and_no_repeat(reader, log, since=10)
        await reader.close()


async def test_latest_does_not_wait_for_the_upstream_and_leaves_the_owners_log_when_it_is_there() -> None:
    log, opened = FakeLog(random.Random(8)), asyncio.Event()
    log.append(10)

    class Late:
        async def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
            await opened.wait()
            async with aclosing(log.read(cursor, start)) as frames:
                async for frame in frames:
                    yield frame

    one = Feed(CONTRACT, Late(), log, Ring(10_000))
    run = asyncio.create_task(one.run())
    reader = Reader(one, Start.START_LATEST)
    await until(lambda: reader.place, reader)
    assert reader.place == log.appended[-1] and not one.ring.log
    log.append(3)
    await until(lambda: reader.told == log.appended[10:], reader)
    assert not reader.follower.live
    # Nothing arrives any more: that alone must not keep a stream of the reader's own open.
    opened.set()
    await until(lambda: reader.follower.live, reader)
    await reader.close()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_who_started_at_the_latest_comes_back_to_the_same_place_before_anything_arrived() -> None:
    log = FakeLog(random.Random(9))
    log.append(10)
    async with feeding(log) as one:
        reader = Reader(one, Start.START_LATEST)
        await until(lambda: reader.place, reader)
        await reader.close()
        log.append(5)
        await reader.reconnect()
        await until(lambda: len(reader.told) == 5, reader)
        require_no_hole_and_no_repeat(reader, log, since=10)
        await reader.close()


async def test_a_product_that_leaves_a_stream_comes_back_where_the_subscriber_stands() -> None:
    log = FakeLog(random.Random(10))
    log.append(200)
    async with feeding(log) as one:
        reader = Reader(one)
        await until(lambda: reader.follower._waiting)
        await reader.leave_and_rejoin()
        await until(lambda: len(reader.told) == 200, reader)
        require_no_hole_and_no_repeat(reader, log)
        await reader.close()


async def test_a_replaced_log_is_a_gap_and_then_the_whole_new_log() -> None:
    log = FakeLog(random.Random(5))
    log.append(4)
    async with feeding(log) as one:
        reader = Reader(one)
        await until(lambda: len(reader.told) == 4 and reader.follower.live, reader)
        log.replace()
        log.append(3)
        await until(lambda: len(reader.told) == 8, reader)
        assert [gap.reason for gap in reader.gaps] == [GapReason.GAP_REASON_LOG_REPLACED]
        assert reader.told[4] == ("gap", 0)
        require_no_hole_and_no_repeat(reader, log)
        await reader.close()


async def test_a_cursor_past_the_end_of_the_log_is_for_the_owner_to_judge() -> None:
    log = FakeLog(random.Random(6))
    log.append(4)
    async with feeding(log) as one:
        await until(lambda: one.ring.log)
        reader = Reader(one)
        await reader.close()
        reader._cursor = [Position(product=PRODUCT, log=log.log, offset=10_000)]
        await reader.reconnect()
        await until(lambda: len(reader.told) == 5, reader)
        assert reader.gaps[0].reason == GapReason.GAP_REASON_LOG_REPLACED
        await reader.close()


@pytest.mark.parametrize("refusal", [InvalidInput("your cursor!"), RuntimeError("a mistake of ours")])
async def test_an_owner_that_refuses_its_stream_costs_the_others_nothing(refusal: Exception) -> None:
    log, willing = FakeLog(random.Random(11)), asyncio.Event()
    log.append(3)

    class Unwilling:
        async def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
            if not willing.is_set():
                raise refusal
            async with aclosing(log.read(cursor, start)) as frames:
                async for frame in frames:
                    yield frame

    history = Unwilling() if isinstance(refusal, InvalidInput) else log
    one = Feed(CONTRACT, Unwilling(), history, Ring(10_000))
    run = asyncio.create_task(one.run())
    reader = Reader(one)
    await until(lambda: one.broken_since, reader)
    willing.set()
    await until(lambda: reader.told == log.appended and reader.follower.live, reader)
    await reader.close()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_a_place_that_an_owner_sends_twice_is_told_once() -> None:
    ring = Ring(10_000)
    log = FakeLog(random.Random(7))
    log.append(3)
    reader = FrameReader(PRODUCT)
    data = SealedFrame(batches=[log._sealed(*batch) for batch in log.batches]).SerializeToString()
    assert len(ring.extend(reader.read(data))) == 3
    assert ring.extend(reader.read(data)) == []
    assert ring.repeated == 3
