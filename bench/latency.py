"""Latency: from the first record of a batch being observed until a subscriber, or a query, can have it."""

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from bench.counters import Counters, Reading
from bench.mesh import RunningMesh, running, source, subscriber
from bench.pipeline import GOAL, INTERVAL, PIPELINE, drained, paced, require_store, stored
from bench.report import Figure, Section
from bench.sealed import PRODUCT
from bench.window import measured
from telltale.naming import SpiffeId, trust_domain
from telltale.sqlite import connect

# Percent of the goal that is offered, by how the writer keeps the records: rows cost it many times as much.
SHARES: Mapping[str, Sequence[int]] = {"rows": (10,), "columns": (10, 50)}
_SUBSCRIBER = "subscriber"
# How often the database is looked at: a latency is at most this much too long.
_LOOK_SECONDS = 0.005

METHOD = (
    f"As the pipeline, at 10 % and 50 % of {GOAL:,} records/s. The first record of a batch counts as"
    f" observed when the batch before it was closed, so {INTERVAL * 1e3:.0f} ms of each latency are the"
    " batch itself; acks count from its end. Queryable is what another connection to the database sees,"
    " looked at every 5 ms."
)


async def measure(seconds: float, full: int = GOAL, cases: Mapping[str, Sequence[int]] = SHARES) -> Section:
    figures: list[Figure] = []
    for store, shares in cases.items():
        rates = {share: full * share // 100 for share in shares}
        members = [
            *(source(_name(share), *paced(rate, store)) for share, rate in rates.items()),
            *(subscriber(f"{_SUBSCRIBER}-{share}", "--source", f"/{_name(share)}") for share in shares),
        ]
        async with running(PIPELINE, members) as mesh:
            for share in shares:
                figures += await _measure(mesh, seconds, store, share)
                await drained(mesh)
    return Section("latency", METHOD, figures)


async def _measure(mesh: RunningMesh, seconds: float, store: str, share: int) -> list[Figure]:
    reader = f"{_SUBSCRIBER}-{share}"
    async with mesh.running(reader), mesh.running(_name(share)):
        with mesh.counters(_name(share)) as counters:
            await mesh.until("the source has begun", lambda: bool(counters.read().records))
        await mesh.until("the database has records", lambda: bool(stored(mesh)))
        require_store(mesh, store)
        with _Looker(mesh, _name(share)) as looker:
            window = await measured(mesh, seconds, _name(share), reader)
            queryable = looker.reading()
    taken = {
        "acked": window.counted[_name(share)],
        "subscriber": window.counted[reader],
        "queryable": queryable,
    }
    return [
        Figure(
            f"{store}, {share} %: observed to {what}, {name}",
            latencies.percentile(part),
            "s",
            "1" if part > 0.5 and what != "acked" else "",
        )
        for what, latencies in taken.items()
        for part, name in ((0.5, "p50"), (0.99, "p99"))
    ]


class _Looker:
    """Looks at the database, in a thread of its own, for batches that were not there before."""

    def __init__(self, mesh: RunningMesh, name: str) -> None:
        self._mesh = mesh
        self._name = name
        self._source = str(SpiffeId(trust_domain("servers", mesh.mesh), f"/agent/{name}"))
        self._counters = Counters(mesh.home.state(name) / "queryable")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="looker")

    def __enter__(self) -> "_Looker":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def reading(self) -> Reading:
        return self._counters.read()

    def _look(self) -> None:
        with closing(connect(self._mesh.home.database, read_only=True)) as database:
            with self._mesh.counters(self._name) as counters:
                epoch = counters.read().epoch_ns / 1e9
            seen = self._newest(database)
            while not self._ended.wait(_LOOK_SECONDS):
                newest = self._newest(database)
                now = time.time()
                for sequence in range(seen + 1, newest + 1):
                    self._counters.took(now - epoch - (sequence - 1) * INTERVAL)
                seen = newest

    def _newest(self, database: sqlite3.Connection) -> int:
        """Sequence of the source's newest batch in the database."""
        row = database.execute(
            "SELECT max(sequence) FROM batches WHERE product = ? AND source = ?", (PRODUCT, self._source)
        ).fetchone()
        return int(row[0] or 0)


def _name(share: int) -> str:
    return f"source-{share}"
