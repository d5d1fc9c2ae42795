"""Clearance on the real wire: who sees less gets masked lists and copies, no stream, no answer to a guess."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc import aio

from telltale.api.mesh.v1.access_pb2 import AccessQuery, Action, CheckRequest
from telltale.api.mesh.v1.access_pb2_grpc import AccessStub
from telltale.api.mesh.v1.batch_pb2 import Header, SealedFrame
from telltale.api.mesh.v1.stream_pb2 import ListRequest, SubscribeRequest, WatchRequest
from telltale.api.servers.v1.accounts_pb2 import AccountsFrame, AccountsList, AccountsRecord, Password
from telltale.api.servers.v1.accounts_pb2_grpc import AccountsStub
from telltale.api.servers.v1.connections_pb2 import ConnectionsRecord
from telltale.api.servers.v1.connections_pb2_grpc import ConnectionsStub
from telltale.errors import BatchRefused
from telltale.identity.workload import Workload
from telltale.seal.verify import Verifier
from tests.support.domain import Running
from tests.support.mesh import Mesh

ACCOUNTS = "servers.accounts"
CONNECTIONS = "servers.connections"
# What names people in an account.
MASKED = ["account", "account_id", "group_id", "groups", "home"]
NAMES = ("marguerite", "bartholomew", "ann")


def account(name: str, number: int) -> AccountsRecord:
    record = AccountsRecord(
        account=name,
        account_id=number,
        group_id=number,
        groups=[name, "sudo"],
        home=f"/home/{name}",
        shell="/bin/bash",
        can_log_in=True,
        password=Password.PASSWORD_SET,
    )
    record.time.FromDatetime(datetime.now(UTC))
    return record


@pytest.fixture
def agent(mesh: Mesh) -> Workload:
    return mesh.workload("servers", "/agent/web1")


@pytest.fixture
def ann(mesh: Mesh) -> Workload:
    """An operator without groups."""
    return mesh.workload("operators", "/ann")


@pytest.fixture
def ray(mesh: Mesh) -> Workload:
    return mesh.workload("operators", "/ray", groups=["responders"])


@pytest.fixture
async def told(servers: Running, agent: Workload, tmp_path: Path) -> AsyncIterator[Running]:
    """A domain that knows three accounts of a host, one of them gone again."""
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.snapshot(ACCOUNTS, [account(name, 1000 + at) for at, name in enumerate(NAMES)])
        await source.publish(ACCOUNTS, [], removed=[AccountsRecord(account="ann")])
        record = ConnectionsRecord(local_address="10.0.0.1", remote_address="192.0.2.7", account="marguerite")
        record.time.FromDatetime(datetime.now(UTC))
        await source.publish(CONNECTIONS, [record])
        async with asyncio.timeout(20):
            while len(await servers.domain.log.after(ACCOUNTS, 0, 1 << 20)) < 2:  # noqa: ASYNC110 - on disk
                await asyncio.sleep(0.01)
            while not await servers.domain.log.after(CONNECTIONS, 0, 1 << 20):  # noqa: ASYNC110 - on disk
                await asyncio.sleep(0.01)
    yield servers


async def listed(servers: Running, who: Workload, request: ListRequest) -> AccountsList:
    async with servers.channel(who) as channel:
        page: AccountsList = await AccountsStub(channel).List(request, metadata=await servers.metadata(who))
        return page


async def watched(servers: Running, who: Workload) -> list[bytes]:
    """The frames of a watch up to its mark."""
    found = []
    method = "/telltale.api.servers.v1.Accounts/Watch"
    async with servers.channel(who) as channel, asyncio.timeout(10):
        call = channel.unary_stream(method)(
            WatchRequest().SerializeToString(), metadata=await servers.metadata(who)
        )
        async for frame in call:
            found.append(frame)
            if SealedFrame.FromString(frame).HasField("sync"):
                break
        call.cancel()
    return found


async def refusal(servers: Running, who: Workload, request: ListRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as refused:
        await listed(servers, who, request)
    return refused.value.code(), refused.value.details() or ""


async def test_a_list_is_masked_for_those_who_may_not_see_it_all(told: Running, ann: Workload) -> None:
    page = await listed(told, ann, ListRequest())
    assert list(page.masked_fields) == MASKED
    assert len(page.entries) == 2, "the rows stay"
    for entry in page.entries:
        assert entry.source.endswith("/agent/web1")
        assert (entry.record.shell, entry.record.password) == ("/bin/bash", Password.PASSWORD_SET)
        assert entry.record.can_log_in and entry.record.HasField("time")
        assert not (
            entry.record.account or entry.record.account_id or entry.record.groups or entry.record.home
        )
    assert not any(name.encode() in page.SerializeToString() for name in NAMES)


async def test_a_list_is_whole_for_responders(told: Running, ray: Workload) -> None:
    page = await listed(told, ray, ListRequest())
    assert not page.masked_fields
    assert sorted(entry.record.account for entry in page.entries) == ["bartholomew", "marguerite"]


@pytest.mark.parametrize(
    "condition",
    [
        'account = "marguerite"',
        'account >= "m"',
        "account_id < 1001",
        'groups : "a"',
        'shell = "/bin/bash" AND home != ""',
    ],
)
async def test_a_filter_answers_no_guess_at_a_masked_field(
    told: Running, ann: Workload, ray: Workload, condition: str
) -> None:
    code, said = await refusal(told, ann, ListRequest(filter=condition))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "(personal) of servers.accounts; leave it out of the filter" in said
    assert (await listed(told, ray, ListRequest(filter=condition))).entries


async def test_a_filter_on_what_is_visible_still_works(told: Running, ann: Workload) -> None:
    page = await listed(told, ann, ListRequest(filter='shell = "/bin/bash" AND source : "web1"'))
    assert len(page.entries) == 2


async def test_page_tokens_tell_no_key(told: Running, ann: Workload, ray: Workload) -> None:
    for who in (ann, ray):
        page = await listed(told, who, ListRequest(page_size=1))
        content = base64.urlsafe_b64decode(page.next_page_token)
        for name in NAMES:
            for text in (content, page.next_page_token.encode()):
                assert name.encode() not in text and name.encode().hex().encode() not in text
        rest = await listed(told, who, ListRequest(page_size=1, page_token=page.next_page_token))
        assert len(rest.entries) == 1 and not rest.next_page_token


async def test_a_token_of_somebody_who_sees_more_shows_no_more(
    told: Running, ann: Workload, ray: Workload
) -> None:
    token = (await listed(told, ray, ListRequest(page_size=1))).next_page_token
    page = await listed(told, ann, ListRequest(page_size=1, page_token=token))
    assert list(page.masked_fields) == MASKED and not page.entries[0].record.account


async def test_a_watch_is_masked_unsigned_and_says_so(told: Running, mesh: Mesh, ann: Workload) -> None:
    frames = await watched(told, ann)
    assert not any(name.encode() in frame for frame in frames for name in NAMES)
    sealed = [batch for frame in frames for batch in SealedFrame.FromString(frame).batches]
    typed = [batch for frame in frames for batch in AccountsFrame.FromString(frame).batches]
    assert not any(SealedFrame.FromString(frame).certificates for frame in frames)
    assert [len(batch.payload.records) for batch in typed] == [3, 0]
    assert [len(batch.payload.removed) for batch in typed] == [0, 1]
    for batch in typed:
        assert list(batch.delivery.masked_fields) == MASKED
        assert not (batch.signature or batch.header.payload_sha256 or batch.header.previous_header_sha256)
        assert batch.header.record_count and batch.delivery.offset
    for one in sealed:
        with pytest.raises(BatchRefused):
            Verifier(mesh.trust).verify(one, datetime.now(UTC))


async def test_a_watch_is_sealed_for_responders(told: Running, mesh: Mesh, ray: Workload) -> None:
    verifier = Verifier(mesh.trust)
    names: list[str] = []
    for data in await watched(told, ray):
        frame = SealedFrame.FromString(data)
        verifier.learn(frame.certificates)
        for batch in frame.batches:
            assert verifier.verify(batch, datetime.now(UTC)).product == ACCOUNTS
        for typed in AccountsFrame.FromString(data).batches:
            assert not typed.delivery.masked_fields
            names += [record.account for record in typed.payload.records]
    assert names == list(NAMES)


@pytest.mark.parametrize("stub", [AccountsStub, ConnectionsStub])
async def test_the_sealed_stream_is_for_those_who_see_it_all(
    told: Running, ann: Workload, ray: Workload, stub: type[AccountsStub] | type[ConnectionsStub]
) -> None:
    async with told.channel(ann) as channel, asyncio.timeout(10):
        call = stub(channel).Subscribe(SubscribeRequest(), metadata=await told.metadata(ann))
        with pytest.raises(aio.AioRpcError) as refused:
            await call.read()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    said = refused.value.details() or ""
    assert "may not see" in said and "account (personal)" in said
    assert ("List and Watch serve it" in said) == (stub is AccountsStub)
    async with told.channel(ray) as channel, asyncio.timeout(10):
        call = stub(channel).Subscribe(SubscribeRequest(), metadata=await told.metadata(ray))
        frame = await call.read()
        call.cancel()
    assert frame.batches[0].payload.records[0].account == "marguerite"


async def test_the_gateway_is_told_the_same(told: Running, mesh: Mesh, ann: Workload, ray: Workload) -> None:
    gateway = mesh.workload("platform", "/gateway")
    queries = [
        AccessQuery(action=action, product=ACCOUNTS)
        for action in (Action.ACTION_DISCOVER, Action.ACTION_SUBSCRIBE, Action.ACTION_LIST)
    ]
    answers = []
    async with told.channel(gateway) as channel:
        for who in (ann, ray):
            token = await who.token(mesh.trust_domain("servers"))
            answer = await AccessStub(channel).Check(
                CheckRequest(token=token, queries=queries), metadata=await told.metadata(gateway)
            )
            answers.append(answer.decisions)
    assert [one.allowed for one in answers[0]] == [True, False, True]
    assert "may not see account (personal)" in answers[0][1].reason
    assert [one.allowed for one in answers[1]] == [True, True, True]


async def test_groups_count_for_operators_only(told: Running, mesh: Mesh) -> None:
    """Every authority may put its own identities into whatever group it likes."""
    impostor = mesh.workload("analysis", "/detective", groups=["responders"])
    assert (await refusal(told, impostor, ListRequest()))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_times_of_batches_stay_for_who_may_see_them(told: Running, ann: Workload) -> None:
    headers = [
        Header.FromString(batch.header)
        for frame in await watched(told, ann)
        for batch in SealedFrame.FromString(frame).batches
    ]
    assert headers[0].HasField("sealed_time") and headers[0].HasField("first_event_time")
