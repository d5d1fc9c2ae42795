"""A domain's service and authority, taken over: an agent that believes them does nothing but its own work."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from telltale.seal.verify import Verifier
from tests.support import memory
from tests.support.hostile import HostileService
from tests.support.mesh import Mesh
from tests.support.running_mesh import environment

pytestmark = pytest.mark.timeout(180)

# What an agent's directory holds; nothing that a server says adds another file.
FILES = {
    "identity.pem",
    "spool.db",
    # SQLite's, while it makes the file.
    "spool.db-journal",
    "spool.db-shm",
    "spool.db-wal",
    "spool.mark",
    "status.json",
    "positions",
}


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", "servers", "platform")


@pytest.fixture
async def hostile(mesh: Mesh) -> AsyncIterator[HostileService]:
    one = HostileService(mesh)
    async with one.serving():
        yield one


async def test_an_agent_that_hears_everything_that_can_be_said_does_nothing_but_push(
    mesh: Mesh, hostile: HostileService, tmp_path: Path
) -> None:
    state = tmp_path / "agent"
    credentials = mesh.credentials("servers", "/agent/web1")
    credentials.save(state)
    settings = {
        "TELLTALE_MESH": mesh.name,
        "TELLTALE_STATE": str(state),
        "TELLTALE_TRUST": str(mesh.home.trust),
        "TELLTALE_AUTHORITY": f"127.0.0.1:{hostile.authority}",
        "TELLTALE_ENROLLMENT": f"127.0.0.1:{hostile.authority}",
        "TELLTALE_SERVICE": f"127.0.0.1:{hostile.service}",
        "TELLTALE_COLLECT": "servers.cpu,servers.memory",
        "TELLTALE_INTERVALS": "servers.cpu=200ms,servers.memory=200ms",
    }
    with (tmp_path / "log").open("w") as log:
        agent = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agent", env={**environment(), **settings}, stdout=log, stderr=log
        )
    seen = Seen(psutil.Process(agent.pid))
    watching = asyncio.create_task(seen.watch())
    try:
        believing = asyncio.create_task(hostile.believed.wait())
        ended = asyncio.create_task(agent.wait())
        await asyncio.wait({believing, ended}, return_when=asyncio.FIRST_COMPLETED)
        assert not ended.done(), (tmp_path / "log").read_text()[-3000:]
        if memory.can_be_read():
            # All that whoever takes this host over could use elsewhere.
            (key,) = memory.keys_in(agent.pid)
            assert key == credentials.key.private_numbers().private_value
            held = {token.subject for token in memory.tokens_in(agent.pid)}
            assert held <= {str(credentials.spiffe_id)}
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        if agent.returncode is None:
            agent.terminate()
            await agent.wait()
    assert not hostile.left and not hostile.heads and not hostile.tokens
    assert {method for method, _ in hostile.calls} == {"Chains", "Register", "Push", "IssueToken"}
    assert {who for _, who in hostile.calls} == {str(credentials.spiffe_id)}
    assert seen.looks > 10
    assert seen.children == set() and seen.listens == set()
    assert seen.dialled <= {hostile.service, hostile.authority}
    assert seen.files <= {str(state / name) for name in FILES} | {str(tmp_path / "log"), "/dev/null"}
    assert {path.name for path in state.iterdir()} <= FILES
    # What the service said of chains of others takes no room, and what it was told is still the truth.
    assert (state / "spool.db").stat().st_size < 4 << 20
    assert seen.most_memory < 300 << 20
    verifier = Verifier(mesh.trust)
    verifier.learn(credentials.certificates)
    for header, batch in hostile.batches:
        verifier.verify(batch, datetime.now(UTC))
        assert header.product in ("servers.cpu", "servers.memory")


class Seen:
    """What an agent was seen doing while it ran."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.looks = 0
        self.children: set[int] = set()
        self.listens: set[int] = set()
        self.dialled: set[int] = set()
        self.files: set[str] = set()
        self.most_memory = 0

    async def watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(0.05)

    def look(self) -> None:
        try:
            self.children |= {child.pid for child in self._process.children(recursive=True)}
            for one in self._process.net_connections(kind="inet"):
                if one.raddr:
                    self.dialled.add(one.raddr.port)
                else:
                    self.listens.add(one.laddr.port)
            self.files |= _written(self._process.pid)
            self.most_memory = max(self.most_memory, self._process.memory_info().rss)
        except psutil.NoSuchProcess:
            return
        self.looks += 1


def _written(pid: int) -> set[str]:
    """Files that a process holds open to write."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
            flags = int(Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().split()[3], 8)
        except OSError:
            continue
        if target.startswith("/") and flags & (os.O_WRONLY | os.O_RDWR):
            found.add(target)
    return found
