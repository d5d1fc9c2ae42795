"""`telltale status`: whether the mesh runs, and how each product stands."""

import asyncio
import sys
from datetime import UTC, datetime

from telltale.cli import show
from telltale.cli.dashboard import gap_table, product_table, totals
from telltale.cli.home import Home
from telltale.cli.observe import Observer
from telltale.cli.operator import operator


async def status(home: Home, *, as_json: bool) -> None:
    """One look at the mesh. Fails when none runs."""
    mesh = await asyncio.to_thread(home.mesh)
    async with operator(home) as asked:
        snapshot = await Observer(home, asked).look()
    facts = {"mesh": mesh.name, "gateway": mesh.gateway, "home": str(home.path), "pid": mesh.pid}
    if as_json:
        document = snapshot.as_json()
        # The supervisor alone knows its children; `telltale up` shows them.
        del document["processes"]
        show.document({**facts, "problem": snapshot.problem or None, **document})
        return
    show.mapping(facts)
    sys.stdout.write(f"\n{snapshot.problem or totals(snapshot)}\n\n")
    show.draw(product_table(snapshot, datetime.now(UTC)))
    if snapshot.gaps:
        sys.stdout.write("\nA part of these can no longer be had:\n\n")
        show.draw(gap_table(snapshot))
