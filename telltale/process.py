"""What every process's main module does: logs, the event loop, signals, and one line when it cannot start."""

import asyncio
import contextlib
import io
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TextIO, cast

import structlog
import uvloop

from telltale.errors import TelltaleError


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `main` until it returns; SIGTERM and SIGINT set the event that it is given.

    Ends the process with status 1 and one line on stderr when Telltale itself found something wrong.
    """
    configure_logging()
    # Keys and tokens are in memory: a crash must not leave them in a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    async def guarded() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await main(stopping)

    try:
        uvloop.run(guarded())
    except TelltaleError as wrong:
        _give_up(wrong)
    except BaseExceptionGroup as several:
        ours, others = several.split(TelltaleError)
        if others is not None or ours is None:
            raise
        _give_up(_first(ours))


def configure_logging() -> None:
    """Structured lines on stderr; what a terminal shows is for people, what a pipe gets is JSON."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    renderer: structlog.types.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Patient(sys.stderr))),
        cache_logger_on_first_use=True,
    )


class _Patient(io.TextIOBase):
    """A stream whose disk may be full: a line that cannot be written is lost, and nothing else ends by it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _give_up(wrong: BaseException) -> None:
    structlog.get_logger("telltale").error("cannot go on", reason=str(wrong))
    raise SystemExit(1)
