"""A process of load sources: real spools, real identities, the real push, and a journal of what was sealed.

`python -m tests.chaos.load --help`. SIGUSR1: make no more, push on what there is. SIGTERM: end.
"""

import argparse
import asyncio
import contextlib
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import structlog

from telltale import process
from telltale.contract.image import own_image
from telltale.errors import Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.source.source import Source, SourceSettings
from tests.chaos.journal import Journal, digest
from tests.chaos.records import LOADS, Load

MESH = "telltale.internal"
TRUST_DOMAIN = f"servers.{MESH}"
JOURNAL, SPOOL = "journal", "spool.db"
# Sources of a fleet start and publish spread out, as hosts do.
_OPENING = 32

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Options:
    """directory: one directory each source, and the journal of all. every: seconds between two publications
    of a source, about. records: of one publication.
    """

    directory: Path
    trust: Path
    authority: str
    service: str
    every: float
    records: int


async def run(options: Options, stopping: asyncio.Event) -> None:
    """Runs the sources of a directory until `stopping` is set."""
    # Set by both signals.
    quiet = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, quiet.set)
    trust = await asyncio.to_thread(Trust.load, options.trust, MESH)
    authority = AuthorityClient(trust, options.authority, "")
    opening = asyncio.Semaphore(_OPENING)
    with Journal(options.directory / JOURNAL) as journal:
        async with asyncio.TaskGroup() as tasks:
            running = 0
            for directory in sorted(path.parent for path in options.directory.glob("*/identity.pem")):
                credentials = await asyncio.to_thread(Credentials.load, directory)
                if credentials is not None:
                    me = Workload(credentials, trust, authority)
                    one = _One(me, directory, options, journal, quiet, stopping)
                    tasks.create_task(one.run(opening))
                    running += 1
            if not running:
                log.error("no source to run", directory=str(options.directory))
            await stopping.wait()
            quiet.set()


class _One:
    """One source and what it publishes."""

    def __init__(
        self,
        me: Workload,
        directory: Path,
        options: Options,
        journal: Journal,
        quiet: asyncio.Event,
        stopping: asyncio.Event,
    ) -> None:
        self._me = me
        self._spool = SourceSettings(directory / SPOOL, options.service, TRUST_DOMAIN)
        self._options = options
        self._journal = journal
        self._quiet = quiet
        self._stopping = stopping
        self._draw = random.Random(str(me.spiffe_id))

    async def run(self, opening: asyncio.Semaphore) -> None:
        async with opening:
            source = Source(self._me, self._spool, own_image("servers"))
            await source.__aenter__()
        try:
            # The first at once, so that a start is seen.
            turn = 0
            while not self._quiet.is_set():
                await self._publish(source, LOADS[turn % len(LOADS)])
                turn += 1
                with contextlib.suppress(TimeoutError):
                    pause = self._options.every * self._draw.uniform(0.5, 1.5)
                    await asyncio.wait_for(self._quiet.wait(), pause)
            await self._stopping.wait()
        finally:
            await source.__aexit__(None, None, None)

    async def _publish(self, source: Source, load: Load) -> None:
        name = str(self._me.spiffe_id)
        first = self._journal.last.get((name, load.product), 0) + 1
        made = [load.make(self._draw, first + place) for place in range(self._options.records)]
        digests = [digest(one.values) for one in made]
        announced = self._journal.announce(name, load.product, digests)
        try:
            await source.publish(load.product, [one.record for one in made])
        except Unavailable as failed:
            log.warning("not kept", product=load.product, first=first, error=str(failed))
            return
        self._journal.keep(announced)


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--authority", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--every", type=float, required=True)
    parser.add_argument("--records", type=int, required=True)
    return Options(**vars(parser.parse_args()))


if __name__ == "__main__":
    options = _options()
    process.run(lambda stopping: run(options, stopping))
