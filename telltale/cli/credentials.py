"""`telltale credentials NAME`: what a program or a person needs to call the gateway, as files."""

import asyncio
import shlex
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import jwt

from telltale.cli import show
from telltale.cli.enrolment import FILES, audiences, enrolled
from telltale.cli.home import Home
from telltale.cli.logins import acting, chosen
from telltale.cli.processes import LOOPBACK
from telltale.errors import Precondition
from telltale.identity.credentials import Credentials
from telltale.identity.keys import write_secret
from telltale.naming import RESPONDERS


async def credentials(
    home: Home, name: str | None, *, groups: Sequence[str] = (RESPONDERS,), as_json: bool
) -> None:
    """Writes the files of an operator with a fresh token, and enrols it when it has no valid certificate.

    Without a name they are those of the person who has logged in.
    """
    async with AsyncExitStack() as stack:
        if name is None:
            person = await asyncio.to_thread(chosen, home)
            if person is None:
                raise Precondition("nobody has logged in here; give the NAME of an operator of this machine")
            mesh, me = await stack.enter_async_context(acting(home))
            directory = home.logins / person
        else:
            mesh = await asyncio.to_thread(home.mesh)
            me = await stack.enter_async_context(enrolled(home, mesh, name, groups))
            directory = home.credentials(name)
        token = await me.token(*audiences(me))
        held = me.credentials
        await asyncio.to_thread(write_files, directory, held, me.trust.root_pem, token)
    issued = {
        "spiffe_id": str(held.spiffe_id),
        "groups": groups_of(token),
        "expires": held.not_after.isoformat().replace("+00:00", "Z"),
        **files_of(directory, mesh.gateway),
    }
    if as_json:
        show.document(issued)
    else:
        show.mapping(issued)


def write_files(directory: Path, held: Credentials, root_pem: bytes, token: str) -> None:
    """Writes what programs read, for their owner alone. Blocks."""
    contents = {
        "certificate": held.chain_pem,
        "key": held.key_pem,
        "ca": root_pem,
        "token": token.encode(),
    }
    for kind, file in FILES.items():
        write_secret(directory / file, contents[kind])


def files_of(directory: Path, gateway: str) -> dict[str, str]:
    """Where the files are and how to use them."""
    files = {kind: directory / file for kind, file in FILES.items()}
    return {
        "gateway": gateway,
        **{kind: str(path) for kind, path in files.items()},
        "grpcurl": grpcurl_line(files, gateway),
    }


def groups_of(token: str) -> list[str]:
    """The policy groups that a token of this machine's own names; whoever it is shown to verifies it."""
    groups = jwt.decode(token, options={"verify_signature": False}).get("groups", [])
    return groups if isinstance(groups, list) else []


def grpcurl_line(files: dict[str, Path], gateway: str) -> str:
    """The call that lists the products. The token is read by the shell, so it is in no history."""
    host, _, port = gateway.rpartition(":")
    target = f"localhost:{port}" if host == LOOPBACK else f"-authority localhost {gateway}"
    quoted = {kind: shlex.quote(str(path)) for kind, path in files.items()}
    # The gateway's certificate names no address; on its own machine it proves `localhost`.
    return (
        f"grpcurl -cacert {quoted['ca']} -cert {quoted['certificate']} -key {quoted['key']} "
        f'-H "authorization: Bearer $(cat {quoted["token"]})" {target} list'
    )
