"""The agent's status as a file: an agent binds no port, so this is where a health check looks."""

import contextlib
import json
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.status import AgentStatus
from telltale.errors import Precondition

NAME = "status.json"
WRITE_EVERY_SECONDS = 5.0
# The writer shares the loop that runs everything: when it stalls for this long, so does the agent.
STALE_AFTER_SECONDS = 30.0
# Of every usual file system.
_BLOCK_BYTES = 4096


def write(
    directory: Path, status: AgentStatus, source: str, last_ack: float | None, certificate_ends: float
) -> None:
    """Writes the status of now, also on a full disk once it was written before.

    Times are Unix seconds. Raises OSError when it cannot. Blocks on the disk.
    """
    document: dict[str, Any] = {
        "written": time.time(),
        "source": source,
        "last_ack": last_ack,
        "certificate_ends": certificate_ends,
        "spool": asdict(status.spool),
        "records": status.records,
        "lost": status.lost,
        "collectors": {
            one.product: {"state": one.state.value, "reason": one.reason, "records": one.records}
            for one in status.every_collector()
        },
    }
    content = (json.dumps(document, indent=1) + "\n").encode()
    # JSON may end in white space: whole blocks, so that what is longer later fits into those that are there.
    content = content.ljust(-(-len(content) // _BLOCK_BYTES) * _BLOCK_BYTES)
    scratch = directory / f".{NAME}.new"
    try:
        scratch.write_bytes(content)
        scratch.replace(directory / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        _overwrite(directory / NAME, content)


def _overwrite(path: Path, content: bytes) -> None:
    """Into the blocks that the file has: a full disk has no others."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        content = content.ljust(os.fstat(descriptor).st_size)
        # All of it or nothing.
        os.posix_fallocate(descriptor, 0, len(content))
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    try:
        first: dict[str, Any] = json.loads(path.read_bytes())
        return first
    except ValueError:
        # In the middle of being overwritten, which takes microseconds.
        time.sleep(0.1)
    try:
        again: dict[str, Any] = json.loads(path.read_bytes())
        return again
    except ValueError as broken:
        raise Precondition(f"{path} cannot be read: {broken}; the agent writes it anew in seconds") from None


def check(directory: Path, now: float) -> str:
    """One line on a healthy agent; raises Precondition saying what is wrong with another.

    An unreachable domain service does not make an agent unhealthy: it spools, which is its work then. An
    expired certificate does: nothing but an operator brings such an agent back.
    """
    path = directory / NAME
    try:
        status = _read(path)
    except FileNotFoundError:
        raise Precondition(f"{path} does not exist: the agent has not joined or not started yet") from None
    if now > status["certificate_ends"]:
        ended = datetime.fromtimestamp(status["certificate_ends"], UTC)
        raise Precondition(
            f"the certificate of {status['source']} expired at {ended:%Y-%m-%d %H:%M:%S} UTC; "
            f"`telltale agent join` with a new join token and --state {directory} brings it back, and the "
            f"{status['spool']['batches']} batches that wait"
        )
    age = now - status["written"]
    if age > STALE_AFTER_SECONDS:
        raise Precondition(f"the agent has not written {path} for {age:.0f} s: it is stopped or hangs")
    states = [one["state"] for one in status["collectors"].values()]
    working = sum(state in ("ok", "degraded") for state in states)
    if not working:
        raise Precondition(f"none of the {len(states)} collectors works; {path} says why")
    spool = status["spool"]
    line = (
        f"{status['source']}: {working} of {len(states)} collectors work, "
        f"{status['records']} records collected, {spool['batches']} batches wait"
    )
    if spool["shed"] or spool["lost"]:
        line += (
            f"; the spool was full: {spool['shed']} batches of samples shed, {spool['lost']} records lost "
            "since the start"
        )
    return line
