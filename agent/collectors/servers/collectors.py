"""`servers.collectors`: how every collector of this agent fares, so that what is not seen is known."""

from collections.abc import Iterator
from datetime import timedelta

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.collectors_pb2 import CollectorsRecord


class Collectors(Collector):
    """Every collector that has been tried, this one included."""

    product = "servers.collectors"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._agent = host.agent

    def collect(self) -> Iterator[CollectorsRecord]:
        time = timestamp()
        for status in self._agent.every_collector():
            yield CollectorsRecord(
                time=time,
                product=status.product,
                state=f"COLLECTOR_STATE_{status.state.name}",
                reason=status.reason,
                state_since=timestamp(status.since_unix_ns),
                interval_seconds=status.interval_seconds,
                last_duration_seconds=status.last_duration_seconds,
                runs=status.runs,
                failures=status.failures,
                records=status.records,
                lost_records=status.lost,
            )
