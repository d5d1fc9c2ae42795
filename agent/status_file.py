"""The agent's status as a file: an agent binds no port, so this is where a health check looks."""

import json
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


def write(
    directory: Path, status: AgentStatus, source: str, last_ack: float | None, certificate_ends: float
) -> None:
    """Writes the status of now. Times are Unix seconds. Blocks on the disk."""
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
    scratch = directory / f".{NAME}.new"
    scratch.write_text(json.dumps(document, indent=1) + "\n")
    scratch.replace(directory / NAME)


def check(directory: Path, now: float) -> str:
    """One line on a healthy agent; raises Precondition saying what is wrong with another.

    An unreachable domain service does not make an agent unhealthy: it spools, which is its work then. An
    expired certificate does: nothing but an operator brings such an agent back.
    """
    path = directory / NAME
    try:
        status = json.loads(path.read_text())
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
