"""Looks at a running mesh from outside: its catalog through the gateway, its rows in the database."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from telltale.api.mesh.v1.catalog_pb2 import CatalogEntry, CatalogState
from telltale.api.mesh.v1.product_pb2 import Kind
from telltale.cli.history import Stored, gaps, latest_findings, stored
from telltale.cli.home import Home
from telltale.cli.operator import Operator, operator
from telltale.cli.snapshot import FindingView, Lags, ProductView, Rates, Snapshot
from telltale.cli.supervisor import ChildStatus
from telltale.errors import TelltaleError
from telltale.rpc.client import backoff

# Who asks the gateway for what `telltale up` shows.
DASHBOARD = "dashboard"
_FINDINGS = 6
_PATIENCE = 3.0


class Observer:
    """Puts together what one look shows. It never raises because the mesh is not well: it says so."""

    def __init__(self, home: Home, operator: Operator | None = None) -> None:
        self._home = home
        self._rates = Rates()
        self._lags = Lags()
        self._operator = operator
        self._connected = asyncio.Event()
        self._problem = "connecting to the gateway"
        self._entries: Sequence[CatalogEntry] = ()
        self._before: Mapping[str, Stored] = {}

    async def count_from_now(self) -> None:
        """Leaves out what is in the database already, as the gateway too counts from its start."""
        self._before = await asyncio.to_thread(stored, self._home.database)

    async def look(self, processes: Sequence[ChildStatus] = ()) -> Snapshot:
        """The mesh now."""
        # In this order nothing seems to be stored before it came in.
        rows, findings, total = await asyncio.to_thread(_read, self._home)
        missing = await asyncio.to_thread(gaps, self._home.database)
        await self._ask_catalog()
        now = datetime.now(UTC)
        products = tuple(self._view(entry, rows, now) for entry in self._entries)
        return Snapshot(products, tuple(processes), findings, total, self._problem, missing)

    async def counted_again(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what the database holds now; what is stored since has come in since."""
        rows, findings, total = await asyncio.to_thread(_read, self._home)
        products = []
        for product in snapshot.products:
            new = self._new(product.name, rows)
            products.append(replace(product, stored=new, received=max(product.received, new or 0)))
        return replace(snapshot, products=tuple(products), findings=findings, findings_total=total)

    async def keep_connected(self) -> None:
        """Connects, again and again while it fails, and holds the connection until it is cancelled."""
        attempt = 0
        while True:
            try:
                async with operator(self._home, DASHBOARD) as self._operator:
                    self._connected.set()
                    await asyncio.Event().wait()
            except TelltaleError as failed:
                self._problem = str(failed)
            finally:
                self._operator = None
                self._connected.clear()
            attempt += 1
            await asyncio.sleep(backoff(attempt))

    async def operator(self) -> Operator:
        """The dashboard's operator, as soon as it is enrolled."""
        while self._operator is None:
            await self._connected.wait()
        return self._operator

    async def _ask_catalog(self) -> None:
        if self._operator is None:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                self._entries = await self._operator.catalog()
            self._problem = ""
        except TelltaleError as failed:
            self._problem = str(failed)
        except TimeoutError:
            self._problem = f"the gateway did not answer within {_PATIENCE:.0f} s"

    def _view(self, entry: CatalogEntry, rows: Mapping[str, Stored], now: datetime) -> ProductView:
        name = entry.product.name
        held, new = rows.get(name), self._new(name, rows)
        received = _moment(entry, "last_received_time")
        event = _moment(entry, "last_event_time")
        return ProductView(
            name=name,
            kind=Kind.Name(entry.product.kind).removeprefix("KIND_").lower(),
            state=CatalogState.Name(entry.state).removeprefix("CATALOG_STATE_"),
            state_since=_moment(entry, "state_since"),
            # A gateway that was restarted counts from nothing; what is stored has come in all the same.
            received=max(entry.records, new or 0),
            stored=new,
            rate=self._rates.of(name, entry.records, time.monotonic()),
            freshness=(now - event).total_seconds() if event else None,
            lag=self._lags.of(name, received, held.received, now)
            if received and held and held.received
            else None,
        )

    def _new(self, product: str, rows: Mapping[str, Stored]) -> int | None:
        held, before = rows.get(product), self._before.get(product)
        return None if held is None else held.records - (before.records if before else 0)


@asynccontextmanager
async def observing(home: Home) -> AsyncIterator[Observer]:
    """An observer that connects in the background as soon as there is something to connect to."""
    observer = Observer(home)
    await observer.count_from_now()
    connection = asyncio.create_task(observer.keep_connected(), name="dashboard's connection")
    try:
        yield observer
    finally:
        connection.cancel()
        with suppress(asyncio.CancelledError):
            await connection


def _moment(entry: CatalogEntry, field: str) -> datetime | None:
    if not entry.HasField(field):
        return None
    moment: Timestamp = getattr(entry, field)
    return moment.ToDatetime(UTC)


def _read(home: Home) -> tuple[Mapping[str, Stored], tuple[FindingView, ...], int]:
    findings, total = latest_findings(home.database, _FINDINGS)
    return stored(home.database), findings, total
