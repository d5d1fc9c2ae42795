"""Runs collectors, spread over time, each in a lane of its own, so that none holds up another."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from agent.collectors import Collector, CollectorFactory, Host
from agent.lane import Lane
from agent.outlet import Outlet, Sink
from agent.threads import Threads
from telltale.contract.product import Contract
from telltale.errors import ConfigurationError
from telltale.naming import matches


class Runner:
    """Makes the collectors of `factories` whose product matches `products`, and runs them into the sink."""

    def __init__(
        self,
        factories: Iterable[CollectorFactory],
        contracts: Iterable[Contract],
        sink: Sink,
        host: Host,
        *,
        products: tuple[str, ...] = ("*",),
        intervals: Mapping[str, timedelta] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        by_name = {contract.name: contract for contract in contracts}
        made = [factory(host) for factory in factories]
        collectors = [collector for collector in made if matches(collector.product, products)]
        intervals = intervals or {}
        _require_known(intervals, made)
        _require_some(collectors, products)
        threads = Threads()
        self.lanes: dict[str, Lane] = {}
        for index, collector in enumerate(collectors):
            if collector.product not in by_name:
                raise ConfigurationError(
                    f"a collector reads {collector.product}, which no contract describes; "
                    f"add its proto or correct the collector's `product`"
                )
            collector.interval = intervals.get(collector.product, collector.interval)
            self.lanes[collector.product] = Lane(
                collector,
                Outlet(by_name[collector.product], sink, clock),
                host,
                threads,
                interval=collector.interval.total_seconds(),
                phase=index / len(collectors),
                clock=clock,
            )

    async def run(self) -> None:
        """Runs every collector until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for product, lane in self.lanes.items():
                tasks.create_task(lane.run(), name=product)


def _require_known(intervals: Mapping[str, timedelta], collectors: Sequence[Collector]) -> None:
    products = sorted(collector.product for collector in collectors)
    for product in intervals:
        if product not in products:
            raise ConfigurationError(
                f"TELLTALE_INTERVALS: this agent has no collector for {product}; it has {', '.join(products)}"
            )


def _require_some(collectors: Sequence[Collector], products: tuple[str, ...]) -> None:
    if not collectors:
        raise ConfigurationError(f"TELLTALE_COLLECT: {','.join(products)} names no collector of this agent")
