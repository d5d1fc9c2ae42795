"""`network.exporters`: who exports flows to this receiver, as its table of them has it."""

from collections.abc import Callable, Iterable
from datetime import timedelta

from agent.collectors import Collector
from telltale.api.network.v1.exporters_pb2 import ExportersRecord


class Exporters(Collector):
    """What `read` yields: the exporters as they are now. It is called in a thread."""

    product = "network.exporters"
    interval = timedelta(seconds=10)

    def __init__(self, read: Callable[[], Iterable[ExportersRecord]]) -> None:
        self._read = read

    def collect(self) -> Iterable[ExportersRecord]:
        return self._read()
