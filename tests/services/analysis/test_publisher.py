"""Findings reach the product log once each, wherever the publisher dies."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from services.analysis import outbox as outbox_module
from services.analysis.outbox import PRODUCT, Outbox
from services.analysis.publisher import Publisher
from services.analysis.state import State
from telltale.api.analysis.v1.findings_pb2 import Fact, FindingsFrame, FindingsRecord
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse
from telltale.contract.schema import Schema
from telltale.domain.service import Domain
from tests.services.analysis.telling import opened_state
from tests.support.domain import running
from tests.support.mesh import Mesh

_T = TypeVar("_T")


class Died(Exception):
    """Stands where a process would be gone."""


def findings(count: int, start: int = 0) -> list[FindingsRecord]:
    return [FindingsRecord(id=f"{start + number:032x}", revision=1) for number in range(count)]


def put(state: State, records: list[FindingsRecord]) -> None:
    with state.transaction():
        outbox_module.put(state, records)


def publisher_of(state: State, domain: Domain, accept: object = None) -> Publisher:
    schema = Schema.of(domain.products.image, domain.products.contract(PRODUCT))
    box = Outbox(state, lambda: domain.me.credentials, str(domain.me.spiffe_id), schema.sha256)

    async def run(work: Callable[[], _T]) -> _T:
        return work()

    async def hand_over(request: PushRequest) -> PushResponse:
        return await domain.ingest.accept(domain.me.spiffe_id, request)

    async def newest_epoch() -> int:
        heads = await domain.log.heads(str(domain.me.spiffe_id))
        return max((head.epoch for head in heads), default=0)

    return Publisher(box, run, accept or hand_over, newest_epoch)  # type: ignore[arg-type]


async def published(domain: Domain) -> list[str]:
    ids: list[str] = []
    for entry in await domain.log.after(PRODUCT, 0, 1 << 24):
        batch = SealedBatch.FromString(entry.batch)
        ids += [record.id for record in FindingsFrame.Records.FromString(batch.payload).records]
    return ids


@pytest.fixture
async def domain(tmp_path: Path):  # type: ignore[no-untyped-def]
    mesh = Mesh.create(tmp_path / "mesh", "analysis", "platform", "operators")
    async with running(mesh, tmp_path / "run", "analysis") as service:
        yield service.domain


async def test_findings_are_published_in_their_order(domain: Domain, tmp_path: Path) -> None:
    records = findings(1_200)
    with opened_state(tmp_path / "state", ()) as state:
        put(state, records)
        await publisher_of(state, domain).publish()
        assert state.sql.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert await published(domain) == [record.id for record in records]


async def test_the_outbox_goes_on_after_the_database_was_opened_anew(domain: Domain, tmp_path: Path) -> None:
    records = findings(1_200)
    with opened_state(tmp_path / "state", ()) as state:
        put(state, records[:600])
        publisher = publisher_of(state, domain)

        async def accept(request: PushRequest) -> PushResponse:
            # A batch is sealed and not acked yet.
            state.reopen()
            return await domain.ingest.accept(domain.me.spiffe_id, request)

        await publisher_of(state, domain, accept).publish()
        put(state, records[600:])
        await publisher.publish()
        assert state.sql.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert await published(domain) == [record.id for record in records]


async def test_long_evidence_stays_within_the_bounds_of_a_batch(domain: Domain, tmp_path: Path) -> None:
    records = [
        FindingsRecord(id=f"{number:032x}", evidence=[Fact(name="x", value="y" * 1_000)] * 16)
        for number in range(200)
    ]
    with opened_state(tmp_path / "state", ()) as state:
        put(state, records)
        await publisher_of(state, domain).publish()
    assert await published(domain) == [record.id for record in records]


async def test_a_crash_before_the_log_has_it_loses_nothing(domain: Domain, tmp_path: Path) -> None:
    async def dies(request: PushRequest) -> PushResponse:
        raise Died

    records = findings(3)
    with opened_state(tmp_path / "state", ()) as state:
        put(state, records)
        with pytest.raises(Died):
            await publisher_of(state, domain, dies).publish()
    with opened_state(tmp_path / "state", ()) as state:
        await publisher_of(state, domain).publish()
    assert await published(domain) == [record.id for record in records]


async def test_a_crash_after_the_log_has_it_publishes_nothing_twice(domain: Domain, tmp_path: Path) -> None:
    async def dies_after(request: PushRequest) -> PushResponse:
        await domain.ingest.accept(domain.me.spiffe_id, request)
        raise Died

    first, second = findings(3), findings(2, start=3)
    for records in (first, second):
        with opened_state(tmp_path / "state", ()) as state:
            put(state, records)
            with pytest.raises(Died):
                await publisher_of(state, domain, dies_after).publish()
    with opened_state(tmp_path / "state", ()) as state:
        await publisher_of(state, domain).publish()
    assert await published(domain) == [record.id for record in [*first, *second]]


async def test_a_state_older_than_the_log_goes_on_in_a_new_chain(domain: Domain, tmp_path: Path) -> None:
    with opened_state(tmp_path / "state", ()) as state:
        put(state, findings(1))
        await publisher_of(state, domain).publish()
        (old,) = state.sql.execute("SELECT epoch FROM chain").fetchall()
        # As if restored from before it published anything, and with a clock that has stood still.
        with state.transaction():
            state.sql.execute("UPDATE chain SET sequence = 0, header_sha256 = ''::BLOB")
        put(state, findings(1, start=1))
        await publisher_of(state, domain).publish()
        (new,) = state.sql.execute("SELECT epoch FROM chain").fetchall()
    assert new[0] > old[0]
    assert await published(domain) == [record.id for record in findings(2)]


async def test_an_empty_batch_shows_that_the_analysis_lives(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.analysis.publisher.HEARTBEAT_SECONDS", 0.0)
    with opened_state(tmp_path / "state", ()) as state:
        publishing = asyncio.create_task(publisher_of(state, domain).run())
        arrival = domain.log.arrival(PRODUCT)
        await asyncio.wait_for(arrival.wait(), 10)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    (entry, *_) = await domain.log.after(PRODUCT, 0, 1 << 20)
    header = Header.FromString(SealedBatch.FromString(entry.batch).header)
    assert (header.product, header.record_count) == (PRODUCT, 0)
