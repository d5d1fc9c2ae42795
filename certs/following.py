"""A running authority takes up what `certs renew` leaves in its directory, and says when that is due."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Never

import structlog

from certs.issuing import IssuingAuthority
from certs.profiles import is_past_half

# How soon a renewed authority issues from its new certificate.
_FOLLOW_SECONDS = 1.0
_DAY_SECONDS = 24 * 3600.0

_log = structlog.get_logger("certs")


@contextlib.asynccontextmanager
async def following(authority: IssuingAuthority) -> AsyncIterator[None]:
    """Takes up what `certs renew` leaves in the authority's directory while the body runs."""
    task = asyncio.create_task(_follow(authority), name=f"generations of {authority.trust_domain}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(authority: IssuingAuthority) -> Never:
    said, told = "", -_DAY_SECONDS
    while True:
        issuing = authority.issuing
        if is_past_half(issuing) and time.monotonic() - told > _DAY_SECONDS:
            told = time.monotonic()
            _log.warning(
                "authority past half of its life; run `python -m certs renew` where the root key is",
                trust_domain=authority.trust_domain,
                not_after=issuing.not_valid_after_utc.isoformat(),
            )
        await asyncio.sleep(_FOLLOW_SECONDS)
        try:
            if await asyncio.to_thread(authority.refresh):
                told = -_DAY_SECONDS
                _log.info(
                    "authority renewed",
                    trust_domain=authority.trust_domain,
                    not_after=authority.issuing.not_valid_after_utc.isoformat(),
                )
            said = ""
        except Exception as broken:
            # Whatever lies there now, it goes on issuing with what it has. Told once, not every second.
            if said != str(broken):
                said = str(broken)
                _log.error("authority's directory cannot be taken up; going on as before", error=said)
