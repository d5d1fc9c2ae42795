"""What was granted at the console, where the authority's key lies: the running authority tells of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Never

import structlog

from certs.ledger import Ledger
from certs.policy import INVITE
from certs.record import Record

# The console is another process, which may write at any time.
_LOOK_SECONDS = 1.0

_log = structlog.get_logger("certs")


@contextlib.asynccontextmanager
async def telling_of_the_console(ledger: Ledger, record: Record) -> AsyncIterator[None]:
    """Records the join tokens of the console, those from before the start too, while the body runs."""
    task = asyncio.create_task(_tell(ledger, record), name="console")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tell(ledger: Ledger, record: Record) -> Never:
    while True:
        try:
            waiting = await asyncio.to_thread(ledger.console_invitations)
            for one in waiting:
                made = (
                    f"a join token was made where the authority's key lies, at {one.at:%Y-%m-%d %H:%M:%S} UTC"
                )
                groups = f", for the groups {', '.join(one.groups)}" if one.groups else ""
                record.console(INVITE, made + groups, one.spiffe_id)
            if waiting:
                await asyncio.to_thread(ledger.told, waiting)
        except Exception as failed:  # a full disk, a lock: it waits, and passes
            _log.error("what the console granted is not told yet", error=str(failed) or type(failed).__name__)
        await asyncio.sleep(_LOOK_SECONDS)
