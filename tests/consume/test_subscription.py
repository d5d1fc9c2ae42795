import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from telltale.api.mesh.v1.batch_pb2 import Cursor, Gap, GapReason, Hole, Position, SealedBatch, Sync
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.consume import holding
from telltale.consume.chains import KnownChain
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.consume.subscription import Subscription
from telltale.errors import TelltaleError
from telltale.seal.chain import Head, Link
from tests.support.batches import DISK_USAGE, INVENTORY, SCHEMAS, Chain, disk_usage, host
from tests.support.gateways import Gateway, running_gateway
from tests.support.mesh import Mesh
from tests.support.words import say, word


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh.create(tmp_path_factory.mktemp("mesh"), "servers", "network", "platform")


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def address(mesh: Mesh, gateway: Gateway) -> AsyncIterator[str]:
    async with running_gateway(mesh, gateway) as bound:
        yield bound


@pytest.fixture
def chain(mesh: Mesh) -> Chain:
    return Chain(mesh.credentials("servers", "/agent/web1"))


async def take(stream: Subscription, count: int) -> list[Item]:
    items: list[Item] = []
    async with asyncio.timeout(20):
        while len(items) < count:
            items += await anext(stream)
    return items


def offsets(items: list[Item]) -> list[int]:
    return [item.position.offset for item in items if isinstance(item, Delivered)]


async def test_batches_arrive_verified_with_their_contract(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    await gateway.add(*(chain.next([disk_usage("/")]) for _ in range(3)), credentials=chain.credentials)
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        items = await take(stream, 3)
    assert offsets(items) == [1, 2, 3]
    for item in items:
        assert isinstance(item, Delivered)
        assert item.refused is None and item.signed and item.link is Link.NEXT and not item.missing
        assert item.contract is not None and item.contract.name == DISK_USAGE
        assert item.schema is not None and item.schema.sha256 == SCHEMAS[DISK_USAGE].sha256


async def test_a_broken_stream_goes_on_where_it_stood_without_repeats(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    for _ in range(3):
        await gateway.add(chain.next([disk_usage("/")]), chain.next([]), credentials=chain.credentials)
    gateway.break_after = 1
    async with Subscription(mesh.workload("platform", "/writer"), address, ["servers.*"]) as stream:
        assert offsets(await take(stream, 6)) == [1, 2, 3, 4, 5, 6]
    assert [p.offset for p in gateway.requests[1].cursor.positions] == [2]


async def test_domains_that_no_token_can_name_are_told_once(tmp_path: Path, gateway: Gateway) -> None:
    teams = [f"team{number:02}" for number in range(16)]
    wide = Mesh.create(tmp_path / "wide", "platform", "servers", *teams)
    chain = Chain(wide.credentials("servers", "/agent/web1"))
    for _ in range(2):
        await gateway.add(chain.next([disk_usage("/")]), credentials=chain.credentials)
    gateway.break_after = 1
    async with running_gateway(wide, gateway) as bound:
        with capture_logs() as logs:
            async with Subscription(wide.workload("platform", "/writer"), bound, ["*"]) as stream:
                await take(stream, 2)
    assert len(gateway.requests) > 1, "the stream was not opened again"
    told = [line["domains"] for line in logs if "domains" in line]
    assert told == [[wide.trust_domain(team) for team in teams[14:]]]


async def test_who_started_at_the_latest_goes_on_from_there_before_anything_has_arrived(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    place = Position(product=DISK_USAGE, log="a", offset=7)
    await gateway.add(sync=Sync(position=place))
    gateway.break_after = 1
    me = mesh.workload("platform", "/writer")
    async with Subscription(me, address, [DISK_USAGE], start=Start.START_LATEST):
        # Breaks the stream, which has had its one frame.
        await gateway.add(chain.next([disk_usage("/")]), credentials=chain.credentials)
        async with asyncio.timeout(20):
            await gateway.opened(2)
    assert list(gateway.requests[1].cursor.positions) == [place]


async def test_the_stream_is_opened_anew_before_its_token_ends(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path, "servers", "platform", token_life=timedelta(seconds=3))
    gateway = Gateway()
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    async with running_gateway(mesh, gateway) as address:
        async with Subscription(
            mesh.workload("platform", "/writer"), address, ["*"], patient=False
        ) as stream:
            await gateway.add(chain.next([disk_usage("/")]), credentials=chain.credentials)
            assert offsets(await take(stream, 1)) == [1]
            async with asyncio.timeout(20):
                await gateway.opened(3)
            await gateway.add(chain.next([disk_usage("/")]), credentials=chain.credentials)
            # The fake sends old frames again; nothing comes twice.
            assert offsets(await take(stream, 1)) == [2]


async def test_a_flipped_bit_is_refused_and_the_rest_goes_on(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    good, bad, last = (chain.next([disk_usage("/")]) for _ in range(3))
    flipped = SealedBatch(header=bad.header, signature=bad.signature, payload=bad.payload[:-1] + b"\x00")
    await gateway.add(good, flipped, last, credentials=chain.credentials)
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        items = [item for item in await take(stream, 3) if isinstance(item, Delivered)]
    assert [item.refused.reason if item.refused else None for item in items] == [
        None,
        RefusalReason.REFUSAL_REASON_SIGNATURE,
        None,
    ]
    # Nobody can say that the second was its source's: in the chain it is missing.
    assert items[2].missing == ((2, 2),)


async def test_a_source_of_another_domain_may_not_publish_the_product(
    mesh: Mesh, gateway: Gateway, address: str
) -> None:
    stranger = Chain(mesh.credentials("network", "/agent/router1"))
    await gateway.add(stranger.next([disk_usage("/")]), credentials=stranger.credentials)
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        (item,) = await take(stream, 1)
    assert isinstance(item, Delivered) and item.refused is not None
    assert item.refused.reason == RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE


async def test_missing_batches_are_noticed_unless_declared_or_announced(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    first, _, third = (chain.next([disk_usage("/")]) for _ in range(3))
    chain.next([])
    fifth = chain.next([disk_usage("/")], holes=[Hole(first_sequence=4, last_sequence=4)])
    chain.next([])
    seventh = chain.next([disk_usage("/")])
    await gateway.add(first, third, fifth, credentials=chain.credentials)
    gap = Gap(reason=GapReason.GAP_REASON_RETENTION, product=DISK_USAGE, log="a", after_offset=3)
    await gateway.add(seventh, gap=gap)
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        items = await take(stream, 5)
    assert isinstance(items[3], Missing)
    batches = [item for item in items if isinstance(item, Delivered)]
    assert [item.missing for item in batches] == [(), ((2, 2),), (), ((6, 6),)]
    assert [item.after_gap for item in batches] == [False, False, False, True]


async def test_a_fork_is_refused(mesh: Mesh, gateway: Gateway, address: str, chain: Chain) -> None:
    clone = Chain(chain.credentials)
    clone.next([disk_usage("/elsewhere")])
    await gateway.add(
        chain.next([disk_usage("/")]), clone.next([disk_usage("/forged")]), credentials=chain.credentials
    )
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        items = await take(stream, 2)
    assert isinstance(items[1], Delivered) and items[1].refused is not None
    assert items[1].refused.reason == RefusalReason.REFUSAL_REASON_FORK


async def test_known_chains_and_the_cursor_carry_over_a_restart(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    first, _, third = (chain.next([disk_usage("/")]) for _ in range(3))
    await gateway.add(first, third, credentials=chain.credentials)
    known = KnownChain(DISK_USAGE, str(chain.credentials.spiffe_id), Head(chain.epoch, 1, b""))
    cursor = Cursor(positions=[Position(product=DISK_USAGE, log="a", offset=1)])
    me = mesh.workload("platform", "/writer")
    async with Subscription(me, address, ["*"], cursor, chains=[known]) as stream:
        (item,) = await take(stream, 1)
    assert isinstance(item, Delivered) and item.header.sequence == 3 and item.missing == ((2, 2),)


async def test_batches_wait_for_their_schema_and_other_products_do_not(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    schema = SCHEMAS[DISK_USAGE]
    del gateway.schemas[schema.sha256]
    inventory = Chain(chain.credentials, INVENTORY)
    await gateway.add(
        chain.next([disk_usage("/1")]),
        inventory.next([host("web1")]),
        chain.next([disk_usage("/2")]),
        credentials=chain.credentials,
    )
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        assert offsets(await take(stream, 1)) == [2]
        await gateway.learn(schema.data)
        assert offsets(await take(stream, 2)) == [1, 3]


async def test_a_schema_with_another_digest_is_never_used(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.3)
    gateway.schemas[SCHEMAS[DISK_USAGE].sha256] = SCHEMAS[INVENTORY].data
    await gateway.add(chain.next([disk_usage("/")]), credentials=chain.credentials)
    async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as stream:
        (item,) = await take(stream, 1)
    assert isinstance(item, Delivered) and item.refused is not None and item.signed
    assert item.refused.reason == RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA
    assert "SHA-256" in item.refused.detail


async def test_schemas_on_disk_are_used_when_their_digest_is_right(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain, tmp_path: Path
) -> None:
    await gateway.add(chain.next([disk_usage("/")]), credentials=chain.credentials)
    me = mesh.workload("platform", "/writer")
    async with Subscription(me, address, ["*"], schema_directory=tmp_path) as stream:
        await take(stream, 1)
    file = tmp_path / f"{SCHEMAS[DISK_USAGE].sha256.hex()}.binpb"
    gateway.schemas.clear()
    async with Subscription(me, address, ["*"], schema_directory=tmp_path) as stream:
        (item,) = await take(stream, 1)
        assert isinstance(item, Delivered) and item.refused is None
    file.write_bytes(b"damaged")
    gateway.schemas[SCHEMAS[DISK_USAGE].sha256] = SCHEMAS[DISK_USAGE].data
    async with Subscription(me, address, ["*"], schema_directory=tmp_path) as stream:
        (item,) = await take(stream, 1)
        assert isinstance(item, Delivered) and item.refused is None


async def test_an_impatient_subscription_says_what_is_wrong(mesh: Mesh) -> None:
    me = mesh.workload("platform", "/writer")
    async with Subscription(me, "127.0.0.1:1", ["*"], patient=False) as stream:
        with pytest.raises(TelltaleError):
            async with asyncio.timeout(20):
                await anext(stream)


async def test_a_product_without_a_name_is_refused_at_once(mesh: Mesh) -> None:
    with pytest.raises(TelltaleError, match="no product name"):
        Subscription(mesh.workload("platform", "/writer"), "127.0.0.1:1", ["No Such!"])


async def test_batches_of_a_distrusted_source_are_refused_and_its_chain_goes_on_behind_them(
    mesh: Mesh, gateway: Gateway, address: str, chain: Chain
) -> None:
    now = datetime.now(UTC)
    sealed = [now - timedelta(seconds=seconds) for seconds in (50, 20, 10)]
    await gateway.add(
        *(chain.next([disk_usage("/")], sealed_at=at) for at in sealed), credentials=chain.credentials
    )
    me = mesh.workload("platform", "/writer")
    say(me.trust, mesh, word(chain.credentials.spiffe_id, now - timedelta(seconds=30)))
    async with Subscription(me, address, ["*"]) as stream:
        items = await take(stream, 3)
    reasons = [item.refused.reason if item.refused else None for item in items if isinstance(item, Delivered)]
    assert reasons == [None, *[RefusalReason.REFUSAL_REASON_DISTRUSTED] * 2]
    for item in items:
        # Signed by whom they say, and in their place: nobody has lost them.
        assert isinstance(item, Delivered)
        assert item.signed and item.link is Link.NEXT and not item.missing
