"""Whatever bytes and metadata come to a running authority: a status that says why, and it serves on."""

from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import grpc
import grpc.aio
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.ledger import Ledger
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.api.mesh.v1 import authority_pb2
from telltale.identity.dialling import dial
from telltale.identity.keys import new_key, signing_request
from tests.certs.test_fuzz import mutated
from tests.support.mesh import Mesh

API = "/telltale.api.mesh.v1.Authority/"
# No refusal: a defect, or a server that says nothing.
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
# Examples are calls of one connection: each test makes an authority once an example.
CALLS = 20
EXAMPLES = settings(max_examples=max(1, settings.default.max_examples // 10))


@cache
def mesh() -> Mesh:
    """One for all examples."""
    return Mesh.create(Path(mkdtemp(prefix="telltale-wire-")), "servers", "platform")


@cache
def request() -> bytes:
    return signing_request(new_key())


@cache
def spent() -> str:
    profile = Profile(mesh().spiffe_id("servers", "/agent/fuzzed"))
    return str(Ledger(mesh().home.authority("servers")).grant(profile).token)


def wholes() -> dict[str, bytes]:
    """A good request of each method."""
    return {
        "Enroll": authority_pb2.EnrollRequest(
            join_token=spent(), signing_request=request()
        ).SerializeToString(),
        "Renew": authority_pb2.RenewRequest(signing_request=request()).SerializeToString(),
        "IssueToken": authority_pb2.IssueTokenRequest(
            audiences=["servers.telltale.test"]
        ).SerializeToString(),
        "EndSession": b"",
        "CreateJoinToken": authority_pb2.CreateJoinTokenRequest(path="/agent/web2").SerializeToString(),
        "Distrust": authority_pb2.DistrustRequest(
            spiffe_id="spiffe://servers.telltale.test/agent/x"
        ).SerializeToString(),
        "ExchangeToken": authority_pb2.ExchangeTokenRequest(signing_request=request()).SerializeToString(),
    }


@st.composite
def sent(draw: st.DrawFn) -> tuple[str, bytes, tuple[tuple[str, str | bytes], ...]]:
    """A method, the bytes of its request, and the call's metadata."""
    method = draw(st.sampled_from(sorted(wholes())))
    whole = wholes()[method]
    data = draw(
        st.one_of(st.just(whole), st.binary(max_size=6_000), st.just(mutated(draw(st.data()), whole)))
    )
    value = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=3_000)
    key = st.sampled_from(["authorization", "telltale-on-behalf-of", "x-other", "grpc-timeout-x"])
    pairs = st.tuples(key, value | value.map(lambda text: f"Bearer {text.strip()}")) | st.tuples(
        st.just("telltale-bin"), st.binary(max_size=1_000)
    )
    return method, data, tuple(draw(st.lists(pairs, max_size=3)))


async def answer(call: Callable[[], Awaitable[Any]]) -> grpc.StatusCode:
    try:
        await call()
    except grpc.aio.AioRpcError as refused:
        # Its sentence is for people, and travels in a trailer.
        assert refused.details() and len(refused.details() or "") < 4_000
        return refused.code()
    return grpc.StatusCode.OK


@EXAMPLES
@given(st.lists(sent(), min_size=1, max_size=CALLS), st.booleans())
async def test_every_call_gets_a_status_and_the_authority_serves_on(
    calls: list[tuple[str, bytes, tuple[tuple[str, str | bytes], ...]]], stranger: bool
) -> None:
    address = AuthorityAddress(
        directory=mesh().home.authority("servers"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    many = AuthoritySettings(
        authorities=(address,), enrollments_per_second=10_000, enrollments_per_second_and_address=10_000
    )
    name, root = mesh().server_name("authority", "servers"), mesh().trust.root_pem
    agent = mesh().credentials("servers", "/agent/web1")
    async with (
        serving_authority(address, many) as (port, enrollment),
        dial(f"127.0.0.1:{port}", name, root, agent) as known,
        dial(f"127.0.0.1:{enrollment}", name, root) as unknown,
    ):
        channel = unknown if stranger else known
        for method, data, metadata in calls:
            stub = channel.unary_unary(API + method)
            code = await answer(lambda: stub(data, metadata=metadata, timeout=60))  # noqa: B023
            assert code not in NEVER, (method, data, metadata)
        good = wholes()["IssueToken"]
        assert await known.unary_unary(f"{API}IssueToken")(good, timeout=60)
        enrolled = await unknown.unary_unary(f"{API}Enroll")(wholes()["Enroll"], timeout=60)
        assert authority_pb2.EnrollResponse.FromString(enrolled).certificates
