"""What kept batches need stays as long as they do; what nobody needs goes, and can come again."""

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch, Snapshot
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.domain import log as product_log
from telltale.domain import needs, products
from telltale.domain.inventory import Change
from telltale.domain.log import ProductLog
from telltale.domain.products import Products
from telltale.errors import LimitExceeded
from telltale.naming import SpiffeId
from telltale.seal.sealing import sha256
from tests.domain.test_log import reason
from tests.domain.test_products import NEW, OLD, image, schema
from tests.support.log_chain import PRODUCT, SCHEMA, SOURCE, Chain

USAGE = "servers.disk_usage"
AGENT = SpiffeId.parse(SOURCE)
NOTHING = {USAGE: timedelta(0), PRODUCT: timedelta(0)}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody needs goes at the next step; the clock must only have moved past it."""
    monkeypatch.setattr(product_log, "_GRACE_MS", -1_000)
    monkeypatch.setattr(products, "_UNUSED_SECONDS", 0.0)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[ProductLog]:
    async with ProductLog(tmp_path / "log.db") as made:
        await made.add_schema(SCHEMA)
        yield made


def rows(tmp_path: Path, table: str) -> int:
    with closing(sqlite3.connect(tmp_path / "log.db")) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def passed(log: ProductLog) -> None:
    """A retention of nothing, over everything that came before."""
    now = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= now:
        pass
    await log.prune(NOTHING)


async def test_certificates_go_with_the_last_batch_of_their_signer(log: ProductLog, tmp_path: Path) -> None:
    chain = Chain(product=USAGE)
    for number in range(5):
        chain.signer = (b"leaf %d" % number, b"issuer")
        await log.append([chain.next()])
    assert (rows(tmp_path, "signers"), rows(tmp_path, "certificates")) == (5, 6)
    await log.prune({USAGE: timedelta(days=1), PRODUCT: timedelta(0)})
    assert rows(tmp_path, "signers") == 5
    await passed(log)
    # The issuer is shared, and one of few.
    assert (rows(tmp_path, "signers"), rows(tmp_path, "certificates"), rows(tmp_path, "needs")) == (0, 1, 0)


async def test_a_signer_that_was_forgotten_comes_again_with_its_next_batch(log: ProductLog) -> None:
    chain = Chain(product=USAGE)
    await log.append([chain.next()])
    (entry,) = await log.after(USAGE, 0, 1 << 20)
    await passed(log)
    # Whoever asks meanwhile gets nothing, and that is not what is remembered.
    assert await log.certificates_of(entry.signer) == ()
    await log.append([chain.next()])
    (entry,) = await log.after(USAGE, 0, 1 << 20)
    assert await log.certificates_of(entry.signer) == (b"leaf", b"issuer")


async def test_what_an_inventory_still_needs_stays_however_old_it_is(log: ProductLog, tmp_path: Path) -> None:
    other = b"another version"
    await log.add_schema(other)
    inventory, usage = Chain(), Chain(product=USAGE, source=f"{SOURCE}0")
    usage.schema, usage.signer = other, (b"another leaf", b"issuer")
    await log.append([inventory.next(Change(), Snapshot(id="1", end=True)), usage.next(), usage.next()])
    await passed(log)
    assert await log.forget_schemas([sha256(SCHEMA), sha256(other)]) == [sha256(other)]
    (entry,) = await log.after(PRODUCT, 0, 1 << 20)
    assert await log.certificates_of(entry.signer) == (b"leaf", b"issuer")
    assert rows(tmp_path, "signers") == 1 and await log.schemas() == [SCHEMA]


async def test_a_batch_of_a_schema_that_was_just_forgotten_is_refused_for_now(log: ProductLog) -> None:
    chain = Chain(product=USAGE)
    first = chain.next()
    assert await log.forget_schemas([sha256(SCHEMA)]) == [sha256(SCHEMA)]
    (refused,) = await log.append([first])
    assert reason(refused) == RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA
    assert refused is not None and not refused.final
    assert await log.heads(SOURCE) == []
    await log.add_schema(SCHEMA)
    assert await log.append([first]) == [None]
    assert await log.forget_schemas([sha256(SCHEMA)]) == []


async def test_a_log_of_an_earlier_version_forgets_no_schema_while_it_holds_its_batches(
    tmp_path: Path,
) -> None:
    async with ProductLog(tmp_path / "log.db") as before:
        await before.add_schema(SCHEMA)
        await before.append([Chain(product=USAGE).next()])
    with closing(sqlite3.connect(tmp_path / "log.db")) as db:
        db.execute("DROP TABLE needs")
        db.execute("DELETE FROM meta WHERE name = 'needs after'")
        db.commit()
    async with ProductLog(tmp_path / "log.db") as log:
        assert await log.forget_schemas([sha256(SCHEMA)]) == []
        await passed(log)
        assert await log.forget_schemas([sha256(SCHEMA)]) == [sha256(SCHEMA)]


STEPS = st.lists(
    st.tuples(st.sampled_from(["batch", "retention", "schemas"]), st.integers(0, 2), st.integers(0, 2)),
    max_size=15,
)


@settings(
    max_examples=settings.default.max_examples // 4,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(STEPS)
async def test_every_kept_batch_has_its_schema_and_its_signer(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    versions = [b"version %d" % number for number in range(3)]
    chains = [Chain(product=USAGE, source=f"{SOURCE}{number}") for number in range(3)]
    async with ProductLog(tmp_path_factory.mktemp("needs") / "log.db") as log:
        for step, which, version in steps:
            if step == "batch":
                await log.add_schema(versions[version])
                chains[which].schema = versions[version]
                chains[which].signer = (b"leaf %d of %d" % (version, which), b"issuer")
                assert await log.append([chains[which].next()]) == [None]
            elif step == "retention":
                await passed(log)
            else:
                await log.forget_schemas([sha256(one) for one in versions])
            known = {sha256(data) for data in await log.schemas()}
            for entry in await log.after(USAGE, 0, 1 << 20):
                assert Header.FromString(SealedBatch.FromString(entry.batch).header).schema_sha256 in known
                assert await log.certificates_of(entry.signer)


async def test_many_sources_are_looked_at_a_few_at_a_time(
    log: ProductLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "_SOURCES", 2)
    for number in range(7):
        chain = Chain(product=USAGE, source=f"{SOURCE}{number}")
        chain.signer = (b"leaf %d" % number, b"issuer")
        await log.append([chain.next()])
    await passed(log)
    assert rows(tmp_path, "signers") == 0


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[ProductLog]:
    async with ProductLog(tmp_path / "empty.db") as made:
        yield made


async def test_a_domain_forgets_what_nobody_uses_and_takes_it_again(empty: ProductLog) -> None:
    domain = Products(image(NEW), empty)
    await domain.load()
    await domain.register(schema(OLD), AGENT)
    assert await domain.prune() == [schema(OLD).sha256]
    assert not domain.knows(schema(OLD).sha256) and domain.knows(schema(NEW).sha256)
    assert await empty.schemas() == [schema(NEW).data]
    await domain.register(schema(OLD), AGENT)
    assert domain.schema(schema(OLD).sha256).data == schema(OLD).data


async def test_a_schema_that_somebody_has_asked_for_lately_stays(
    empty: ProductLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_UNUSED_SECONDS", 3_600.0)
    domain = Products(image(NEW), empty)
    await domain.load()
    await domain.register(schema(OLD), AGENT)
    assert await domain.prune() == []


async def test_a_source_may_bring_others_for_those_that_are_gone(
    empty: ProductLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_MAX_BROUGHT", 1)
    domain = Products(image(NEW), empty)
    await domain.load()
    newer = OLD.replace("message FansRecord {", "message FansRecord {\n  reserved 91;", 1)
    await domain.register(schema(OLD), AGENT)
    with pytest.raises(LimitExceeded, match="has brought 1 schemas already"):
        await domain.register(schema(newer), AGENT)
    await domain.register(schema(newer), SpiffeId.parse(f"{SOURCE}2"))
    assert set(await domain.prune()) == {schema(OLD).sha256, schema(newer).sha256}
    await domain.register(schema(newer), AGENT)
