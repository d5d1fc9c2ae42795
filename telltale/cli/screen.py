"""Where `telltale up` shows its snapshots: a live table on a terminal, lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live

from telltale.cli.dashboard import changes, clock, dashboard, totals
from telltale.cli.home import Home
from telltale.cli.processes import GATEWAY, Plan
from telltale.cli.snapshot import Snapshot

_TOTALS_EVERY = 5.0


class Screen(Protocol):
    """Shows the mesh as it is now."""

    def show(self, snapshot: Snapshot) -> None: ...

    def say(self, text: str) -> None: ...


class Lines:
    """A line for each change, and the totals every few seconds."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._before = Snapshot()
        self._said = time.monotonic()

    def show(self, snapshot: Snapshot) -> None:
        for change in changes(self._before, snapshot):
            self.say(change)
        # A gateway that starts again shows its products one after the other: they are no news.
        known = {product.name: product for product in (*self._before.products, *snapshot.products)}
        self._before = replace(snapshot, products=tuple(known.values()))
        if time.monotonic() - self._said >= _TOTALS_EVERY:
            self._said = time.monotonic()
            self.say(totals(snapshot))

    def say(self, text: str) -> None:
        self._output.write(f"{clock()} {text}\n")
        self._output.flush()


class Terminal:
    """One table that is drawn again and again."""

    def __init__(self, live: Live, header: str) -> None:
        self._live = live
        self._header = header
        self._shown = Snapshot()

    def show(self, snapshot: Snapshot) -> None:
        self._shown = snapshot
        self._draw(self._header)

    def say(self, text: str) -> None:
        self._draw(f"{self._header}  ({text})")

    def _draw(self, header: str) -> None:
        height = self._live.console.size.height
        self._live.update(dashboard(self._shown, datetime.now(UTC), header, height), refresh=True)


@contextmanager
def screen(home: Home, planned: Plan, *, quiet: bool) -> Iterator[Screen]:
    """The screen that fits the output. `quiet` leaves standard output to the summary."""
    header = f"{planned.mesh}  gateway {planned.addresses[GATEWAY]}  home {home.path}  Ctrl-C stops"
    if quiet or not sys.stdout.isatty():
        lines = Lines(sys.stderr if quiet else sys.stdout)
        lines.say(header)
        yield lines
        return
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield Terminal(live, header)
