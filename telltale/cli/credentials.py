"""`telltale credentials NAME`: what a program or a person needs to call the gateway, as files."""

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path

from telltale.cli import show
from telltale.cli.enrolment import audiences, enrolled
from telltale.cli.home import Home
from telltale.cli.processes import LOOPBACK
from telltale.identity.keys import write_secret
from telltale.naming import RESPONDERS

_FILES = {"certificate": "certificate.pem", "key": "key.pem", "ca": "ca.pem", "token": "token"}


async def credentials(home: Home, name: str, *, groups: Sequence[str] = (RESPONDERS,), as_json: bool) -> None:
    """Enrols the operator when it has no valid certificate, and writes its files with a fresh token."""
    mesh = await asyncio.to_thread(home.mesh)
    async with enrolled(home, mesh, name, groups) as me:
        token = await me.token(*audiences(me))
        held = me.credentials
        directory = home.credentials(name)
        files = {kind: directory / file for kind, file in _FILES.items()}
        contents = {
            "certificate": held.chain_pem,
            "key": held.key_pem,
            "ca": me.trust.root_pem,
            "token": token.encode(),
        }
        for kind, path in files.items():
            await asyncio.to_thread(write_secret, path, contents[kind])
    issued = {
        "spiffe_id": str(held.spiffe_id),
        "groups": sorted(set(groups)),
        "expires": held.not_after.isoformat().replace("+00:00", "Z"),
        "gateway": mesh.gateway,
        **{kind: str(path) for kind, path in files.items()},
        "grpcurl": grpcurl_line(files, mesh.gateway),
    }
    if as_json:
        show.document(issued)
    else:
        show.mapping(issued)


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
