"""The whole pipeline: service, gateway, a writer that stores every record, an analysis that reads all."""

import asyncio
from collections.abc import Sequence
from contextlib import closing

from bench.forwarding import OWN
from bench.mesh import RunningMesh, running, source
from bench.report import Figure, Section
from bench.sealed import PRODUCT
from bench.window import Window, measured
from telltale.sqlite import connect

PIPELINE = (*OWN, "writer", "analysis")
GOAL = 278_000
# Seconds between a source's batches.
INTERVAL = 0.02
# Offered one after the other, until the writer keeps up no longer.
OFFERED = (50_000, 100_000, 150_000, 200_000, GOAL, 400_000)
# Share of what was offered that is stored when the writer keeps up: a window cuts through commits.
_KEPT_UP = 0.95
_STORED = "stored"

METHOD = (
    "A source pushes 50 batches a second, whoever lags; their size is raised until the writer stores"
    " less than 95 % of what is offered. Stored is what the database itself counts; the analysis"
    " service reads, verifies and follows every batch (no detection looks into the records of this"
    " product)."
)


async def measure(seconds: float, offered: Sequence[int] = OFFERED) -> Section:
    kept: tuple[float, Window] | None = None
    most = 0.0
    members = [source(_name(rate), *paced(rate)) for rate in offered]
    async with running(PIPELINE, members) as mesh:
        for rate in offered:
            async with mesh.running(_name(rate)):
                await mesh.until("the database has records", lambda: bool(stored(mesh)))
                window = await measured(mesh, seconds, _name(rate), gauges={_STORED: lambda: stored(mesh)})
            per_second = window.grown[_STORED] / window.seconds
            most = max(most, per_second)
            if per_second < _KEPT_UP * rate:
                break
            kept = per_second, window
            await drained(mesh)
    figures = [Figure("records stored while the writer keeps up", kept and kept[0], "records/s", f"{GOAL:,}")]
    figures.append(Figure("records stored at most", most, "records/s"))
    if kept is not None:
        figures += kept[1].costs(kept[1].grown[_STORED])
    return Section("pipeline", METHOD, figures)


def paced(rate: int) -> tuple[str, ...]:
    """Arguments of a source that pushes so many records a second."""
    return "--records", str(round(rate * INTERVAL)), "--interval", str(INTERVAL)


def stored(mesh: RunningMesh) -> int:
    """Records of the product in the database; 0 before there is one."""
    if not mesh.home.database.exists():
        return 0
    with closing(connect(mesh.home.database, read_only=True)) as database:
        rows = database.execute("SELECT records FROM products WHERE product = ?", (PRODUCT,)).fetchall()
    return int(rows[0][0]) if rows else 0


async def drained(mesh: RunningMesh) -> None:
    """Waits until nothing more comes to the database."""
    before = -1
    while (now := stored(mesh)) != before:
        before = now
        await asyncio.sleep(1.0)


def _name(rate: int) -> str:
    return f"source-{rate}"
