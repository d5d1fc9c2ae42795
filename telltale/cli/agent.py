"""`telltale agent token` and `telltale agent join`: an operator invites a host, and the host joins."""

import asyncio
import os
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from telltale.api.mesh.v1 import authority_pb2
from telltale.cli import show
from telltale.cli.authorities import TIMEOUT, calling_authority
from telltale.cli.home import Home
from telltale.cli.logins import acting
from telltale.errors import InvalidInput
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import JoinToken
from telltale.identity.newcomer import join as join_mesh
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId, trust_domain

_SHA256_BYTES = 32


@dataclass(frozen=True)
class Invitation:
    """All that a host needs to join."""

    token: JoinToken
    root_sha256: bytes
    expires: datetime
    # host:port of enrolment.
    address: str


async def invite(me: Workload, authority: str, domain: str, path: str) -> Invitation:
    """Asks the authority of a domain at host:port, as an operator, for a join token."""
    trusted = trust_domain(domain, me.trust.mesh)
    wanted = SpiffeId.parse(f"spiffe://{trusted}{path}")
    async with calling_authority(me, authority, trusted) as (stub, metadata):
        request = authority_pb2.CreateJoinTokenRequest(path=wanted.path)
        made = await stub.CreateJoinToken(request, metadata=metadata, timeout=TIMEOUT)
    return Invitation(
        JoinToken.parse(made.token),
        made.root_sha256,
        made.expire_time.ToDatetime(UTC),
        made.enrollment_address,
    )


async def token(home: Home, host: str, domain: str, role: str, *, as_json: bool) -> None:
    """Prints a join token for the agent or the receiver of one host, and how to use it there."""
    authority = (await asyncio.to_thread(home.mesh)).authority_of(domain)
    async with acting(home) as (_, me):
        invitation = await invite(me, authority, domain, f"/{role}/{host}")
    issued = {
        "spiffe_id": str(invitation.token.spiffe_id),
        "token": str(invitation.token),
        "root_sha256": invitation.root_sha256.hex(),
        "expires": invitation.expires.isoformat().replace("+00:00", "Z"),
        "address": invitation.address or None,
        "join": join_line(invitation),
    }
    if as_json:
        show.document(issued)
    else:
        show.mapping(issued)


def join_line(invitation: Invitation) -> str:
    """What to type on the host."""
    words = ("telltale", "agent", "join", invitation.address or "HOST:PORT", "--token", str(invitation.token))
    return shlex.join((*words, "--root", invitation.root_sha256.hex()))


async def join(address: str, text: str, root: str, state: Path, *, authority: str, service: str) -> None:
    """Joins with what `telltale agent token` printed; afterwards `state` is all that an agent needs."""
    try:
        root_sha256 = bytes.fromhex(root)
    except ValueError:
        root_sha256 = b""
    if len(root_sha256) != _SHA256_BYTES:
        raise InvalidInput(
            f"{root[:80]!r} is no SHA-256; copy the 64 digits that `telltale agent token` printed"
        )
    joined = await join_mesh(
        address, JoinToken.parse(text), root_sha256, state, authority=authority, service=service
    )
    sys.stderr.write(f"joined as {joined.spiffe_id}; its key and certificate are in {state}\n")


def run(state: Path) -> None:
    """Becomes the agent, or the receiver, of a directory that has joined; it never returns."""
    os.environ["TELLTALE_STATE"] = str(state)
    held = Credentials.load(state)
    receives = held is not None and held.spiffe_id.path.startswith("/receiver/")
    sys.stdout.flush()
    # -P: the current directory is no place to import from.
    os.execv(sys.executable, (sys.executable, "-P", "-m", "agent.receiver" if receives else "agent"))
