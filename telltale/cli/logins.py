"""The people who have logged in on this machine, and as whom a command acts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from telltale.cli.enrolment import FILES, enrolled
from telltale.cli.home import Home, Mesh
from telltale.errors import ConfigurationError, NotFound, Precondition, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient
from telltale.identity.keys import write_secret
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload

# The identity of the commands on this machine that ask the gateway, where nobody has logged in.
COMMAND_LINE = "command-line"
_FILE = "login.json"


@dataclass(frozen=True)
class Login:
    """A person's session on this machine, beside its key and certificate."""

    name: str
    mesh: str
    # host:port each.
    gateway: str
    authority: str
    enrollment: str
    trust_domains: tuple[str, ...]
    # ISO 8601.
    ends: str

    def save(self, directory: Path) -> None:
        """Writes it beside the rest, and last: it marks the login as complete. Blocks."""
        write_secret(directory / _FILE, json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, directory: Path) -> "Login":
        """Reads what `save` wrote. Blocks."""
        try:
            told = json.loads((directory / _FILE).read_text(encoding="utf-8"))
            return cls(**{**told, "trust_domains": tuple(told["trust_domains"])})
        except (OSError, ValueError, TypeError, KeyError) as broken:
            raise ConfigurationError(f"{directory} holds no readable login; log in again") from broken

    def running(self) -> Mesh:
        """What commands have to know of the mesh."""
        return Mesh(self.mesh, self.gateway, self.authority, self.enrollment, pid=0)


def names(home: Home) -> list[str]:
    """Who has logged in on this machine and not out. Blocks."""
    if not home.logins.is_dir():
        return []
    return sorted(path.parent.name for path in home.logins.glob(f"*/{_FILE}"))


def chosen(home: Home) -> str | None:
    """The login that commands act as; None where nobody has logged in. Blocks."""
    known = names(home)
    if home.person:
        if home.person not in known:
            raise NotFound(f"{home.person[:80]!r} has not logged in here; log in with `telltale login`")
        return home.person
    if len(known) > 1:
        raise Precondition(f"several people have logged in here; choose with `--as`: {', '.join(known)}")
    return known[0] if known else None


@asynccontextmanager
async def acting(home: Home, machine: str | None = None) -> AsyncIterator[tuple[Mesh, Workload]]:
    """The mesh, and the person who has logged in; where nobody has, the command line of the mesh's machine.

    `machine` is an identity of this machine that acts whoever has logged in.
    """
    name = None if machine else await asyncio.to_thread(chosen, home)
    async with AsyncExitStack() as stack:
        if name is None:
            mesh = await asyncio.to_thread(home.mesh)
            yield mesh, await stack.enter_async_context(enrolled(home, mesh, machine or COMMAND_LINE))
            return
        directory = home.logins / name
        login = await asyncio.to_thread(Login.load, directory)
        me = await asyncio.to_thread(held, directory, login)
        if me.credentials.not_after < datetime.fromisoformat(login.ends):
            await stack.enter_async_context(me.renewing(directory))
        yield login.running(), me


def person(login: Login, root_pem: bytes, credentials: Credentials) -> Workload:
    """The workload of a session, which its own authority goes on with."""
    # Whom a person calls is known; whose tokens count is for the servers to know.
    trust = Trust(login.mesh, root_pem, {name: {} for name in login.trust_domains})
    return Workload(credentials, trust, AuthorityClient(trust, login.authority, login.enrollment))


def held(directory: Path, login: Login) -> Workload:
    """The person of a login on this machine, while the session lasts. Blocks."""
    credentials = Credentials.load(directory)
    if credentials is None:
        raise ConfigurationError(f"{directory} holds no readable login; log in again")
    if datetime.now(UTC) >= min(credentials.not_after, datetime.fromisoformat(login.ends)):
        raise Unauthenticated(
            f"the session of {login.name} ended at {login.ends}; log in again with `telltale login`"
        )
    return person(login, (directory / FILES["ca"]).read_bytes(), credentials)
