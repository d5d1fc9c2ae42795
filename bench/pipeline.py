"""The whole pipeline: service, gateway, a writer that stores every record, an analysis that reads all."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

from bench.forwarding import OWN
from bench.mesh import RunningMesh, running, source
from bench.report import Figure, Section
from bench.sealed import PRODUCT
from bench.window import measured
from telltale.sqlite import connect

PIPELINE = (*OWN, "writer", "analysis")
GOAL = 278_000
# Seconds between a source's batches.
INTERVAL = 0.02
# How the writer can keep records, and what is offered of each, one after the other until it lags.
OFFERED = {"rows": (25_000, 50_000, 100_000), "columns": (100_000, GOAL, 400_000)}
# Share of what was offered that is stored when the writer keeps up: a window cuts through commits.
_KEPT_UP = 0.95
_STORED = "stored"

METHOD = (
    "A source pushes 50 batches a second, whoever lags; their size is raised until the writer stores"
    " less than 95 % of what is offered. Rows are the database's own, columns the Parquet files beside it"
    " (STORE_COLUMNS, for products of many records). Stored is what the database itself counts. The analysis"
    " service verifies and follows every batch (no detection looks into the records of this product):"
    " behind is how long after its receipt, by the mean, it was done with a batch, as it says in"
    " mesh.processes."
)


async def measure(seconds: float, offered: dict[str, Sequence[int]] | None = None) -> Section:
    figures: list[Figure] = []
    for store, rates in (offered or OFFERED).items():
        figures += await _measure(seconds, store, rates)
    return Section("pipeline", METHOD, figures)


async def _measure(seconds: float, store: str, offered: Sequence[int]) -> list[Figure]:
    keeps_up: float | None = None
    most = 0.0
    behind: float | None = None
    costs: list[Figure] = []
    members = [source(_name(rate), *paced(rate, store)) for rate in offered]
    async with running(PIPELINE, members) as mesh:
        for rate in offered:
            began = datetime.now(UTC)
            async with mesh.running(_name(rate)):
                await mesh.until("the database has records", lambda: bool(stored(mesh)))
                window = await measured(mesh, seconds, _name(rate), gauges={_STORED: lambda: stored(mesh)})
            require_store(mesh, store)
            per_second = window.grown[_STORED] / window.seconds
            kept_up = per_second >= _KEPT_UP * rate
            most = max(most, per_second)
            if kept_up or not costs:
                behind = analysis_behind(mesh, began)
                costs = window.costs(window.grown[_STORED], prefix=f"{store}: ") if per_second else []
            if not kept_up:
                break
            keeps_up = per_second
            await drained(mesh)
    goal = f"{GOAL:,}" if store == "columns" else ""
    return [
        Figure(f"{store}: stored while the writer keeps up", keeps_up, "records/s", goal),
        Figure(f"{store}: stored at most", most, "records/s"),
        Figure(f"{store}: analysis behind, mean", behind, "s", "1"),
        *costs,
    ]


def paced(rate: int, store: str) -> tuple[str, ...]:
    """Arguments of a source that pushes so many records a second."""
    return "--records", str(round(rate * INTERVAL)), "--interval", str(INTERVAL), "--store", store


def stored(mesh: RunningMesh) -> int:
    """Records of the product in the database; 0 before there is one."""
    if not mesh.home.database.exists():
        return 0
    with closing(connect(mesh.home.database, read_only=True)) as database:
        rows = database.execute("SELECT records FROM products WHERE product = ?", (PRODUCT,)).fetchall()
    return int(rows[0][0]) if rows else 0


def require_store(mesh: RunningMesh, store: str) -> None:
    """Raises RuntimeError when the records are not kept as they should be: the figure would be another's."""
    with closing(connect(mesh.home.database, read_only=True)) as database:
        (kept,) = database.execute("SELECT store FROM products WHERE product = ?", (PRODUCT,)).fetchone()
    if kept != store.upper():
        raise RuntimeError(f"{PRODUCT} is kept as {kept}, not as {store}")


def analysis_behind(mesh: RunningMesh, since: datetime) -> float | None:
    """Mean seconds from the receipt of a batch to its verdict since then; None before one was told."""
    moment = since.replace(tzinfo=None).isoformat(sep=" ")
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    with closing(connect(mesh.home.database, read_only=True)) as database:
        for metric, time, value in database.execute(
            "SELECT metric, time, value FROM mesh_processes WHERE metric LIKE 'telltale.analysis.lag.%'"
            " ORDER BY time"
        ):
            (before if time < moment else after)[metric.rpartition(".")[2]] = value
    batches = after.get("count", 0.0) - before.get("count", 0.0)
    return (after["sum"] - before.get("sum", 0.0)) / batches if batches > 0 else None


async def drained(mesh: RunningMesh) -> None:
    """Waits until nothing more comes to the database."""
    before = -1
    while (now := stored(mesh)) != before:
        before = now
        await asyncio.sleep(1.0)


def _name(rate: int) -> str:
    return f"source-{rate}"
