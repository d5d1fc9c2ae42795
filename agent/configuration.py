"""The agent's settings, without what reads and checks them."""

import os
import pickle
import sys
from collections import namedtuple
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from agent.settings import AgentSettings

_MAX_BYTES = 1 << 20


def read_apart() -> "AgentSettings":
    """Reads the settings in a process of its own, which ends with it: the library that checks them takes
    15 MB, which nothing would give back.

    Ends this process, too, when that one had nothing to hand over: it has printed help, or what is wrong.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _read_into(writer)
        finally:
            # Nothing of the parent's is ended or flushed a second time.
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read(_MAX_BYTES)
    _, ended = os.waitpid(child, 0)
    if not told:
        raise SystemExit(os.waitstatus_to_exitcode(ended))
    # Its own child has written it.
    values = pickle.loads(told)  # noqa: S301
    return cast("AgentSettings", namedtuple("Configuration", values)(**values))


def _read_into(writer: int) -> int:
    """Writes the settings into a pipe; returns the exit status."""
    from agent.settings import AgentSettings
    from telltale.settings import read_or_exit

    try:
        settings = read_or_exit(AgentSettings, "A host agent: collects, seals, spools and pushes.")
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else 1
    with os.fdopen(writer, "wb") as pipe:
        pickle.dump(settings.model_dump(), pipe)
    return 0
