"""`make chaos`: kills and cuts off a real mesh under load, and compares what was sealed with what is stored.

Ends with status 1 when the promise was broken, and leaves the directory there to be looked at.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from telltale.identity.credentials import Credentials
from tests.chaos import disks
from tests.chaos.campaign import Campaign, Outcome, Say, Shape
from tests.chaos.comparison import Comparison, compare
from tests.chaos.journal import read
from tests.chaos.load import JOURNAL, SPOOL
from tests.chaos.report import Report
from tests.chaos.schedule import Event, Parts, damages, schedule
from tests.support.running_mesh import up

_INTERVALS = "servers.memory=1s,servers.cpu=1s,servers.disk_usage=2s,servers.network_io=1s"


def main() -> int:
    options = _options()
    # In order: the mesh is no child that the kernel would end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    mounting = options.own_mounts
    if not mounting and not options.no_full_disk and disks.can_mount():
        disks.with_own_mounts([sys.executable, "-m", "tests.chaos", "--own-mounts", *sys.argv[1:]])
    left_out = [] if mounting else ["full disk: it needs root, who may mount small file systems"]
    seed = options.seed if options.seed is not None else random.randrange(1 << 16)
    shape = Shape(sources=options.sources, fleet=options.fleet)
    parts = Parts(full_disk=mounting, damage=not options.no_damage)
    if options.brief:
        shape = replace(shape, sources=2, fleet_processes=1, fleet_every=2.0)
        parts = replace(parts, pace=0.5, half_open=False, damage=False)
    events = schedule(seed, options.kills, shape.names, parts)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    damage = damages(seed, options.kills, parts)
    console.print(f"seed {seed}, {options.kills} kills, {len(events)} faults, {len(damage)} damaged files:")
    for event in (*events, *damage):
        console.print(f"  {event}", highlight=False)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="telltale-chaos-"))
    started = time.monotonic()
    campaign = Campaign(directory, shape, full_disk=mounting)
    outcome, comparisons = Outcome(), {}
    with _telling(console, len(events) + len(damage)) as say:
        campaign.prepare()
        for phase, faults in (("faults", events), ("damage", damage)):
            # Damage excuses what no other fault does, so that all else is compared before it is done.
            if faults:
                _run(campaign, faults, say, outcome, fleet=phase == "faults")
                say(f"comparing after {phase}")
                comparisons[phase] = _compare(directory, campaign, damaged=phase == "damage")
    report = Report(seed, (*events, *damage), time.monotonic() - started, outcome, comparisons, left_out)
    report.print(console)
    if options.json is not None:
        options.json.write_text(report.as_json() + "\n")
    keep = options.directory is not None or not report.holds
    campaign.end(keep=keep)
    if not keep:
        shutil.rmtree(directory)
    elif not report.holds:
        console.print(f"everything lies in {directory}")
    return 0 if report.holds else 1


def _run(campaign: Campaign, events: Sequence[Event], say: Say, outcome: Outcome, *, fleet: bool) -> None:
    say("the mesh starts")
    with up(campaign.home, settings={"TELLTALE_INTERVALS": _INTERVALS}) as mesh:
        asyncio.run(campaign.run(mesh, events, say, outcome, fleet=fleet))
        say("the mesh stops")


def _compare(directory: Path, campaign: Campaign, *, damaged: bool) -> Comparison:
    return compare(
        campaign.database,
        [one for journal in sorted(directory.rglob(JOURNAL)) for one in read(journal)],
        _spools(directory),
        sorted(campaign.home.glob("state/*/log.db")),
        damaged=damaged,
    )


def _spools(directory: Path) -> list[tuple[str, Path]]:
    """Every spool of the mesh and of the load, and whose it is."""
    found = []
    for path in sorted((*directory.rglob(SPOOL), *directory.rglob("telemetry.db"))):
        credentials = Credentials.load(path.parent)
        if credentials is not None:
            found.append((str(credentials.spiffe_id), path))
    return found


@contextmanager
def _telling(console: Console, events: int) -> Iterator[Say]:
    """Shows how far it is: a live line on a terminal, lines elsewhere."""
    started = time.monotonic()
    if not console.is_terminal:
        yield lambda line: console.print(f"{time.monotonic() - started:6.1f}  {line}", highlight=False)
        return
    done = 0
    with console.status("the mesh starts") as status:

        def say(line: str) -> None:
            nonlocal done
            done += 1
            status.update(f"{time.monotonic() - started:5.0f} s  {min(done, events)}/{events}  {line}")

        yield say


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="processes that are killed one by one (100)")
    parser.add_argument(
        "--seed", type=int, help="decides what is done and when; drawn and printed by default"
    )
    parser.add_argument("--sources", type=int, default=3, help="load processes (3)")
    parser.add_argument("--fleet", type=int, default=1_000, help="agents that reconnect at once (1000)")
    parser.add_argument("--no-damage", action="store_true", help="leave damaged files out")
    parser.add_argument("--no-full-disk", action="store_true", help="leave full disks out, also as root")
    parser.add_argument("--brief", action="store_true", help="leave out what takes long to be noticed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--directory", type=Path, help="an empty directory for everything; it is kept")
    parser.add_argument("--own-mounts", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
