"""An operator's identity on this machine: a join token from the authority's own program, then enrolment."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from telltale.cli.home import Home, Mesh, private_directory
from telltale.errors import InvalidInput, Precondition, TelltaleError
from telltale.identity.credentials import Credentials
from telltale.identity.keys import write_secret
from telltale.identity.workload import Workload
from telltale.naming import OPERATORS, PLATFORM, RESPONDERS, SpiffeId, check_group, trust_domain
from telltale.settings import IdentitySettings

# What programs and grpcurl read, each by itself.
FILES = {"certificate": "certificate.pem", "key": "key.pem", "ca": "ca.pem", "token": "token"}
# Which groups a certificate was made for; the authority's own record is what counts.
_GROUPS = "groups.json"
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")


@asynccontextmanager
async def enrolled(
    home: Home, mesh: Mesh, name: str, groups: Collection[str] = (RESPONDERS,)
) -> AsyncIterator[Workload]:
    """The workload of one operator, in these policy groups and no others.

    Its join token is minted here, where the authority's key lies.
    """
    wanted_groups = sorted({check_group(group) for group in groups})
    directory = home.credentials(checked_name(name))
    path = f"/{name}"
    token_file = directory / "join-token"
    wanted = SpiffeId(trust_domain(OPERATORS, mesh.name), path)
    await asyncio.to_thread(private_directory, directory.parent)
    await asyncio.to_thread(private_directory, directory)
    held_groups = await asyncio.to_thread(_groups, directory)
    if held_groups != wanted_groups or not await asyncio.to_thread(has_valid_credentials, directory, wanted):
        (token,) = await mint(home, [(OPERATORS, path, *(f"+{group}" for group in wanted_groups))])
        await asyncio.to_thread(write_secret, token_file, token.encode())
        # The authority ties groups to a certificate: others need another one.
        await asyncio.to_thread(Credentials.remove, directory)
    settings = IdentitySettings(
        mesh=mesh.name,
        state=directory,
        trust=home.trust,
        authority=mesh.authority,
        enrollment=mesh.enrollment,
        join_token_file=token_file,
        # People enrol here, whatever this shell's environment says of some process.
        certificate_file=None,
        key_file=None,
    )
    async with Workload.open(settings) as me:
        if held_groups != wanted_groups:
            # After the certificate: whatever stops here, the groups on file are never those of another.
            await asyncio.to_thread(write_secret, directory / _GROUPS, json.dumps(wanted_groups).encode())
        yield me


def _groups(directory: Path) -> list[str] | None:
    """The groups that the certificate in the directory was made for; None when nobody knows."""
    try:
        groups = json.loads((directory / _GROUPS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return groups if isinstance(groups, list) else None


def audiences(me: Workload) -> tuple[str, ...]:
    """The gateway's trust domain and those of all services behind it."""
    platform = trust_domain(PLATFORM, me.trust.mesh)
    return (platform, *sorted(me.trust.trust_domains - {platform}))


def checked_name(name: str) -> str:
    """An operator's name; raises InvalidInput when it could mean another identity or another directory."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no operator's name; use lower case letters, digits, `-` and `_`, at most 63"
        )
    return name


def has_valid_credentials(directory: Path, wanted: SpiffeId) -> bool:
    """Whether a workload can start from its directory without a join token."""
    try:
        held = Credentials.load(directory)
        if held is None or held.spiffe_id != wanted:
            return False
        held.check()
    except TelltaleError:
        return False
    return True


async def mint(home: Home, wanted: Sequence[tuple[str, ...]]) -> list[str]:
    """A join token for each identity (domain, path, server names, +groups), in their order.

    By the authority's own program: the kit holds no authority's code.
    """
    lines = "".join(" ".join(identity) + "\n" for identity in wanted)
    return (await certs("join-tokens", "--home", str(home.path), typed=lines)).split()


async def certs(*arguments: str, typed: str = "") -> str:
    """Runs `python -m certs` and returns what it printed; its last line is the reason when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "certs",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate(typed.encode())
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        raise Precondition(
            lines[-1].removeprefix("certs: ") if lines else f"`certs {arguments[0]}` failed without a word"
        )
    return out.decode()
