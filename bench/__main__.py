"""Runs benchmarks: `python -m bench [SECTION...] [--seconds N] [--json FILE]`."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import agents, fairness, fleets, flows, forwarding, latency, limit, pipeline, rotel
from bench.report import Section, show, write

SECTIONS: dict[str, Callable[[float], Awaitable[Section]]] = {
    "limit": limit.measure,
    "rotel": rotel.measure,
    "forwarding": forwarding.measure,
    "pipeline": pipeline.measure,
    "latency": latency.measure,
    "agents": agents.measure,
    "fleets": fleets.measure,
    "fairness": fairness.measure,
    "flows": flows.measure,
}


async def run(names: list[str], seconds: float, path: Path) -> None:
    """Measures the sections one after the other, and prints each as soon as it is there."""
    sections = []
    for name in names:
        section = await SECTIONS[name](seconds)
        show(section)
        sections.append(section)
        await asyncio.to_thread(write, path, sections)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all when none"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="file for the figures")
    wanted = parser.parse_args()
    unknown = [name for name in wanted.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    asyncio.run(run(wanted.sections or list(SECTIONS), wanted.seconds, wanted.json))


if __name__ == "__main__":
    main()
