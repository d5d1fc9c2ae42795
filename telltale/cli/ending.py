"""How a command ends: the one place where errors become a line and an exit code."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click

from telltale.errors import TelltaleError

FAILED = 1
MISUSED = 2
INTERRUPTED = 130


def open_closed_outputs() -> None:
    """Whoever closed an output (`>&-`) does not want to read it; everything else goes on as ever."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def exit_code(command: Callable[[], None]) -> int:
    try:
        command()
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        print(asked.format_message(), file=sys.stderr)
        return MISUSED
    except click.UsageError as misuse:
        where = f" (see `{misuse.ctx.command_path} --help`)" if misuse.ctx else ""
        return _say(f"{misuse.format_message()}{where}", MISUSED)
    except click.ClickException as failure:
        return _say(failure.format_message(), FAILED)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough, as `head` does. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TelltaleError as failure:
        return _say(str(failure), FAILED)
    except OSError as refused:
        # A full disk, a directory of somebody else's: nothing that reading the code would explain.
        return _say(": ".join(str(part) for part in (refused.filename, refused.strerror) if part), FAILED)
    except Exception as failure:
        if os.environ.get("TELLTALE_DEBUG"):
            raise
        told = _one_line(failure)
        return _say(f"{told}; this is a defect: set TELLTALE_DEBUG=1 to see where it happened", FAILED)


def _one_line(failure: BaseException) -> str:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return " ".join(f"{type(failure).__name__}: {failure}".split())


def _say(message: str, code: int) -> int:
    from telltale.cli.show import printable

    # A message may quote what a peer said.
    print(f"telltale: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def perform(command: Coroutine[Any, Any, None]) -> None:
    _quieten()
    try:
        asyncio.run(command)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        # A task group wraps the error that ended it; people want the error.
        known = group.subgroup((TelltaleError, OSError, KeyboardInterrupt))
        cause: BaseException = known or group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from group


def _quieten() -> None:
    """Standard output is for what was asked, and an error says better what the libraries would log."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
