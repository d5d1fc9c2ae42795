"""Decisions are folded, bounded, and published; what is not published is declared."""

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from telltale.api.mesh.v1.stream_pb2 import SubscribeRequest
from telltale.api.platform.v1.audit_pb2 import AuditRecord
from telltale.api.platform.v1.audit_pb2_grpc import AuditStub
from telltale.audit import Decision, place_of
from telltale.source.audit import AUDIT, Audit, self_audit
from telltale.source.folding import Folding, Room
from tests.source.test_telemetry import Published, first_batch
from tests.support.domain import DOMAINS, running
from tests.support.mesh import Mesh

WEB1 = "spiffe://servers.telltale.internal/agent/web1"
PUSHED = Decision(
    action="push",
    allowed=True,
    principal=WEB1,
    reason="permitted by agents-push",
    product="servers.cpu",
    peer=WEB1,
    address="ipv4:192.0.2.1:4711",
    rules=("agents-push",),
)
DENIED = replace(PUSHED, action="subscribe", allowed=False, reason="no policy permits it", rules=())
GATEWAY = "spiffe://platform.telltale.internal/gateway"
MANY = Room(shared=10, of_one=10, callers=10)


def audit(publish: Published, interval: float = 3600, sign_of_life: float = 7200) -> Audit:
    return Audit(publish, "tester", timedelta(seconds=interval), sign_of_life=timedelta(seconds=sign_of_life))


def records(published: Published) -> list[AuditRecord]:
    return published.records[AUDIT]


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1%eth0"),
        ("unix:/run/x", "unix:/run/x"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("", ""),
    ],
)
def test_an_address_is_told_without_its_port(peer: str, place: str) -> None:
    assert place_of(peer) == place


def test_equal_decisions_are_one_with_their_count_and_times() -> None:
    folding = Folding(MANY)
    assert folding.add(PUSHED, 1_000)
    assert not folding.add(PUSHED, 2_000)
    # The same from another port is the same.
    assert not folding.add(replace(PUSHED, address="ipv4:192.0.2.1:9999"), 3_000)
    assert folding.add(replace(PUSHED, product="servers.memory"), 4_000)
    cpu, memory = folding.take_all()
    assert (cpu.first, cpu.last, cpu.count) == (1_000, 3_000, 3)
    assert (memory.first, memory.last, memory.count) == (4_000, 4_000, 1)
    assert cpu.decision == replace(PUSHED, address="192.0.2.1")
    assert folding.take_all() == []


def test_what_is_new_can_be_told_at_once_and_nothing_is_told_twice() -> None:
    folding = Folding(MANY)
    folding.add(DENIED, 1)
    (new,) = folding.take_fresh()
    assert (new.first, new.count) == (1, 1)
    assert folding.take_fresh() == []
    folding.add(DENIED, 2)
    folding.add(DENIED, 3)
    assert folding.take_fresh() == []
    (later,) = folding.take_all()
    assert (later.first, later.last, later.count) == (2, 3, 2)


def test_what_goes_on_in_the_next_interval_is_not_new_and_after_a_pause_it_is() -> None:
    folding = Folding(MANY)
    assert folding.add(PUSHED, 1)
    folding.take_all()
    assert not folding.add(PUSHED, 2)
    assert [one.count for one in folding.take_all()] == [1]
    folding.take_all()
    assert folding.add(PUSHED, 3)


def test_a_clock_that_is_set_back_makes_no_time_that_ends_before_it_begins() -> None:
    folding = Folding(MANY)
    folding.add(PUSHED, 9_000)
    folding.add(PUSHED, 1_000)
    (one,) = folding.take_all()
    assert one.first <= one.last and one.count == 2


def of(number: int, decision: Decision = DENIED) -> Decision:
    """The same decision on one of many callers."""
    name = f"spiffe://servers.telltale.internal/agent/{number}"
    return replace(decision, principal=name, peer=name)


def test_decisions_beyond_a_callers_share_are_one_under_its_name_and_known_ones_still_count() -> None:
    folding = Folding(Room(shared=10, of_one=2, callers=10))
    for product in ("servers.a", "servers.b", "servers.c", "servers.d", "servers.a"):
        folding.add(replace(DENIED, product=product), 1)
    told = folding.take_all()
    assert [(one.decision.product, one.count) for one in told] == [
        ("servers.a", 2),
        ("servers.b", 1),
        ("", 2),
    ]
    rest = told[2].decision
    assert (rest.principal, rest.peer, rest.address, rest.allowed) == (WEB1, WEB1, "192.0.2.1", False)
    assert rest.reason.startswith("one of many different decisions on this caller within a minute")
    assert rest.reason.endswith("the first of them: no policy permits it")


def test_what_a_caller_writes_makes_no_other_decision_of_the_same_kind() -> None:
    folding = Folding(MANY)
    for number in range(1_000):
        folding.add(replace(DENIED, reason=f"{number} is no product", kind="NotFound"), number)
    folding.add(replace(DENIED, reason="0 is no product", kind="PermissionMissing"), 1_000)
    told = folding.take_all()
    assert [(one.decision.reason, one.count) for one in told] == [
        ("0 is no product", 1_000),
        ("0 is no product", 1),
    ]


def test_a_caller_with_100_000_different_denials_hides_nobodys_single_one() -> None:
    folding = Folding(Room(shared=20, of_one=20, callers=100))
    for number in range(100_000):
        folding.add(replace(DENIED, product=f"servers.p{number}"), number)
    assert folding.add(of(1), 100_000)
    # Nor do several of them together, through a forwarder or from many addresses.
    for number in range(10_000):
        crowd = of(2 + number % 5, replace(DENIED, product=f"servers.p{number}"))
        folding.add(replace(crowd, peer=GATEWAY, address=f"192.0.2.{number % 250}"), number)
    assert folding.add(replace(of(9), peer=GATEWAY), 200_000)
    told = folding.take_all()
    single = [one for one in told if one.decision.principal in (of(1).principal, of(9).principal)]
    assert [(one.decision.product, one.count) for one in single] == [("servers.cpu", 1)] * 2
    assert sum(one.count for one in told) == 110_002
    # 20 that share the room, the first of 8 callers, and for 6 of them the rest.
    assert len(told) == 20 + 8 + 6


def test_callers_beyond_the_room_are_counted_as_many() -> None:
    folding = Folding(Room(shared=10, of_one=2, callers=3))
    for number in range(100_000):
        folding.add(of(number), number)
    told = folding.take_all()
    assert [one.count for one in told] == [1, 1, 1, 99_997]
    assert told[3].decision == Decision(
        "subscribe", False, "", "more than 3 callers within a minute; those beyond are told as one"
    )
    # The next interval begins with room for everybody.
    assert folding.add(of(77), 1)


def test_a_strangers_many_names_and_addresses_are_one_caller() -> None:
    folding = Folding(Room(shared=10, of_one=2, callers=10))
    for number in range(1_000):
        name = f"spiffe://servers.telltale.internal/agent/{number}"
        folding.add(
            Decision("enroll", False, name, "unknown", address=f"ipv6:[2001:db8::{number:x}]:4711"), number
        )
    told = folding.take_all()
    assert [one.count for one in told] == [1, 1, 998]
    assert (told[2].decision.principal, told[2].decision.address) == ("", "2001:db8::/64")


def test_what_a_stranger_claims_is_cut_and_can_be_encoded() -> None:
    folding = Folding(MANY)
    claim = replace(DENIED, principal="x" * 10_000, reason="\ud800" + "y" * 10_000, product="z" * 10_000)
    folding.add(claim, 1)
    folding.add(claim, 2)
    (one,) = folding.take_all()
    told = one.decision
    assert one.count == 2
    assert (len(told.principal), len(told.reason), len(told.product)) == (512, 512, 512)
    AuditRecord(principal=told.principal, reason=told.reason, product=told.product).SerializeToString()


async def test_a_new_decision_is_published_while_the_interval_runs() -> None:
    published = Published()
    async with audit(published) as mine:
        mine.record(DENIED)
        await published.until(lambda: bool(records(published)))
        mine.record(PUSHED)
        await published.until(lambda: len(records(published)) == 2)
    denied, pushed = records(published)
    assert (denied.reporter, denied.action, denied.allowed, denied.count) == ("tester", "subscribe", False, 1)
    assert (denied.principal, denied.peer, denied.address) == (WEB1, WEB1, "192.0.2.1")
    assert denied.reason == "no policy permits it" and list(denied.rules) == []
    assert denied.time == denied.last_time and denied.HasField("time")
    assert (pushed.allowed, pushed.product, list(pushed.rules)) == (True, "servers.cpu", ["agents-push"])


async def test_a_thousand_equal_decisions_are_few_records_that_count_them_all() -> None:
    published = Published()
    async with audit(published) as mine:
        for _ in range(500):
            mine.record(PUSHED)
        await published.until(lambda: bool(records(published)))
        for _ in range(500):
            mine.record(PUSHED)
    assert sum(record.count for record in records(published)) == 1_000
    assert len(records(published)) <= 2


async def test_what_goes_on_is_told_once_an_interval() -> None:
    published = Published()
    async with audit(published, interval=0.05) as mine:
        for _ in range(3):
            before = published.calls
            mine.record(PUSHED)
            await published.until(lambda before=before: published.calls > before)  # type: ignore[misc]
    assert [record.count for record in records(published)] == [1, 1, 1]


async def test_what_is_open_is_told_at_the_end() -> None:
    published = Published()
    async with audit(published) as mine:
        mine.record(PUSHED)
        mine.record(DENIED)
    assert {record.action for record in records(published)} == {"push", "subscribe"}


async def test_decisions_of_any_thread_are_counted() -> None:
    published = Published()
    async with audit(published) as mine:

        def decide() -> None:
            for _ in range(1_000):
                mine.record(PUSHED)

        threads = [threading.Thread(target=decide) for _ in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert sum(record.count for record in records(published)) == 4_000


async def test_a_flood_of_denials_is_bounded_and_hides_no_other_decision() -> None:
    published = Published()
    async with audit(published) as mine:
        for number in range(1_500):
            mine.record(replace(DENIED, product=f"servers.p{number}"))
            # A stranger names whom it likes, and has a room apart.
            mine.record(replace(of(number), peer="", address="192.0.2.7"))
        mine.record(of(1))
        mine.record(PUSHED)
    told = records(published)
    assert [(one.product, one.count) for one in told if one.principal == of(1).principal and one.peer] == [
        ("servers.cpu", 1)
    ]
    assert [one.action for one in told if one.allowed] == ["push"]
    assert sum(one.count for one in told) == 3_002
    assert len(told) == 101 + 101 + 2
    assert published.losses == []


async def test_decisions_that_could_not_be_published_are_declared_when_it_is_possible_again() -> None:
    published = Published(failing=True)
    async with audit(published) as mine:
        mine.record(PUSHED)
        mine.record(PUSHED)
        mine.record(DENIED)
        await published.until(lambda: published.calls >= 1)
        published.failing = False
    assert records(published) == []
    assert sum(loss.records for loss in published.losses) == 3


async def test_without_decisions_a_sign_of_life_comes_at_the_start_and_again_when_it_is_due() -> None:
    published = Published()
    async with audit(published, interval=0.01) as mine:
        await published.until(lambda: published.batches[AUDIT] == 1)
        mine.record(PUSHED)
        await published.until(lambda: bool(records(published)))
    assert published.batches[AUDIT] == 2
    patient = Published()
    async with audit(patient, interval=0.01, sign_of_life=0.02):
        await patient.until(lambda: patient.batches[AUDIT] >= 3)
    assert records(patient) == []


async def test_a_decision_after_the_end_harms_nobody() -> None:
    published = Published()
    async with audit(published) as mine:
        pass
    mine.record(DENIED)


async def test_decisions_arrive_at_the_platform(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path / "mesh", *DOMAINS)
    async with running(mesh, tmp_path, "platform") as platform:
        writer, authority = mesh.workload("platform", "/writer"), mesh.workload("servers", "/authority")
        async with self_audit(authority, "authority", tmp_path, platform.address) as mine:
            mine.record(DENIED)
            async with platform.channel(writer) as channel, asyncio.timeout(10):
                metadata = await platform.metadata(writer)
                batch = await first_batch(AuditStub(channel).Subscribe(SubscribeRequest(), metadata=metadata))
    assert batch.header.source == str(mesh.spiffe_id("servers", "/authority"))
    (record,) = batch.payload.records
    assert (record.reporter, record.action, record.principal) == ("authority", "subscribe", WEB1)
