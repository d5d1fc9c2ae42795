"""Runs benchmarks: `python -m bench [SECTION...] [--seconds N] [--json FILE]`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
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


# Beyond this a section has stopped for good.
_PATIENCE = 900.0


async def run(names: Sequence[str], seconds: float, path: Path) -> list[str]:
    """Measures the sections one after the other, and prints each as soon as it is there.

    Returns those that could not be measured: the others go on all the same.
    """
    sections: list[Section] = []
    failed: list[str] = []
    for name in names:
        try:
            async with asyncio.timeout(_PATIENCE):
                section = await SECTIONS[name](seconds)
        except Exception as wrong:
            cause = f"{type(wrong).__name__}: {wrong}"
            section = Section(name, "It could not be measured.", (), (f"{name}: {cause}",))
            failed.append(name)
        show(section)
        sections.append(section)
        await asyncio.to_thread(write, path, sections)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all when none"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="file for the figures")
    wanted = parser.parse_args()
    unknown = [name for name in wanted.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    failed = asyncio.run(run(wanted.sections or list(SECTIONS), wanted.seconds, wanted.json))
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
