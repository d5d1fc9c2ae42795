"""An agent that was away for longer than its certificate lives, or that was moved, comes back whole."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agent import status_file
from certs.ledger import Ledger
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.identity.credentials import Credentials
from tests.support.domain import DOMAINS, Running, free_port, running
from tests.support.mesh import Mesh

PRODUCT = "servers.memory"
# Long enough for a process to start within it on a busy machine.
LEAF_SECONDS = 10
BIN = Path(sys.executable).parent


class Site:
    """The authority and the domain service of `servers`, which may go and come back, and one host."""

    def __init__(self, directory: Path) -> None:
        self.mesh = Mesh.create(directory / "mesh", *DOMAINS)
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "agent.log"
        self.address = AuthorityAddress(
            directory=self.mesh.home.authority("servers"),
            listen=f"127.0.0.1:{free_port()}",
            enrollment=f"127.0.0.1:{free_port()}",
        )
        self.port = free_port()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Running]:
        settings = AuthoritySettings(authorities=(self.address,), leaf_seconds=LEAF_SECONDS)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(serving_authority(self.address, settings))
            yield await stack.enter_async_context(running(self.mesh, self.directory, port=self.port))

    async def join(self, name: str = "web1") -> "subprocess.CompletedProcess[str]":
        """As an operator does it: a fresh join token, and `telltale agent join` with the same directory."""
        profile = Profile(self.mesh.spiffe_id("servers", f"/agent/{name}"))
        token = Ledger(self.mesh.home.authority("servers")).grant(profile).token
        words = (str(BIN / "telltale"), "agent", "join", self.address.enrollment, "--token-file", "-")
        more = ("--root", self.mesh.home.root_sha256(), "--state", str(self.state), "--no-run")
        return await asyncio.to_thread(
            subprocess.run,
            (*words, *more, "--service", f"127.0.0.1:{self.port}"),
            input=str(token),
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[asyncio.subprocess.Process]:
        settings = {
            "TELLTALE_STATE": str(self.state),
            "TELLTALE_COLLECT": PRODUCT,
            "TELLTALE_INTERVALS": f"{PRODUCT}=100ms",
        }
        with self.log.open("a") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "agent"),
                env={**environment(), **settings},
                stdout=output,
                stderr=output,
            )
        try:
            yield process
            process.terminate()
            assert await process.wait() == 0, self.log.read_text()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def events(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELLTALE_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2])}


async def until(condition: Callable[[], Awaitable[object]], site: Site) -> None:
    try:
        async with asyncio.timeout(60):
            while not await condition():  # noqa: ASYNC110 - what is waited for lies on disk and has no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(site.log.read_text()) from None


async def kept(service: Running) -> list[Header]:
    entries = await service.domain.log.after(PRODUCT, 0, 1 << 30, 100_000)
    return [Header.FromString(SealedBatch.FromString(entry.batch).header) for entry in entries]


async def grown(service: Running, site: Site, beyond: int) -> list[Header]:
    async def more() -> bool:
        return len(await kept(service)) >= beyond

    await until(more, site)
    return await kept(service)


def whole(headers: list[Header]) -> None:
    """One chain, every sequence once, nothing given up."""
    assert len({header.epoch for header in headers}) == 1
    assert [header.sequence for header in headers] == list(range(1, len(headers) + 1))
    assert not [hole for header in headers for hole in header.holes]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_an_expired_agent_joins_again_while_it_runs_and_its_chain_goes_on(site: Site) -> None:
    async with site.up() as service:
        assert (await site.join()).returncode == 0
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(site.agent())
            await grown(service, site, 5)
            first = Credentials.load(site.state)
            assert first is not None
            # Nobody is there any more: neither its domain nor its authority, until its certificate has ended.
            away = stack.pop_all()
    async with away:

        async def expired() -> bool:
            status = json.loads((site.state / status_file.NAME).read_text())
            return bool(status["written"] > status["certificate_ends"] + 1)

        await until(expired, site)
        check = await asyncio.to_thread(
            subprocess.run,
            (sys.executable, "-P", "-m", "agent", "--check"),
            env={**environment(), "TELLTALE_STATE": str(site.state)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert check.returncode == 1
        assert "`telltale agent join` with a new join token" in check.stderr
        assert "certificate not renewed; trying again" in site.events()

        async with site.up() as service:
            already = len(await kept(service))
            joined = await site.join()
            assert joined.returncode == 0, joined.stderr
            headers = await grown(service, site, already + 60)
            whole(headers)
            second = Credentials.load(site.state)
            assert second is not None and second.thumbprint != first.thumbprint
            # What was sealed in time is as it was sealed; what was sealed too late has a signer again.
            signers = Counter(header.signer_sha256 for header in headers)
            assert len(signers) > 1
            assert "sealed again what was sealed without a valid certificate" in site.events()
            await away.aclose()
    assert "batch refused" not in site.events()


async def test_an_expired_agent_that_was_stopped_says_what_to_do_and_comes_back_with_its_spool(
    site: Site,
) -> None:
    async with site.up() as service:
        assert (await site.join()).returncode == 0
        async with site.agent():
            await grown(service, site, 5)
    # Its domain is away: what it collects now waits, and it is stopped with that.
    async with site.agent():

        async def waits() -> bool:
            status = json.loads((site.state / status_file.NAME).read_text())
            return bool(status["spool"]["batches"] > 5)

        await until(waits, site)
    held = Credentials.load(site.state)
    assert held is not None
    await asyncio.sleep(max(0.0, held.not_after.timestamp() + 1 - time.time()))
    # As a unit of systemd starts it again and again until somebody comes.
    ended = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-P", "-m", "agent"),
        env={**environment(), "TELLTALE_STATE": str(site.state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "enrol again with a new join token" in ended.stderr and "telltale agent join" in ended.stderr
    async with site.up() as service:
        already = len(await kept(service))
        assert (await site.join()).returncode == 0
        async with site.agent():
            whole(await grown(service, site, already + 10))


async def test_a_directory_that_was_moved_is_the_same_agent(site: Site) -> None:
    async with site.up() as service:
        assert (await site.join()).returncode == 0
        async with site.agent():
            await grown(service, site, 5)
        moved = site.directory / "another host" / "state"
        moved.parent.mkdir()
        site.state = site.state.rename(moved)
        already = len(await kept(service))
        async with site.agent():
            whole(await grown(service, site, already + 5))
        # It may also join again there, for its own name and no other.
        assert (await site.join()).returncode == 0
        refused = await site.join("web2")
        assert refused.returncode == 1
        assert "choose another --state" in refused.stderr
