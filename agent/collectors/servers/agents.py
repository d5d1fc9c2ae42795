"""`servers.agents`: what the agent costs its host, and whether it keeps up."""

from collections.abc import Iterator
from datetime import timedelta

import psutil

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.agents_pb2 import AgentsRecord


class Agents(Collector):
    """The process that this collector runs in."""

    product = "servers.agents"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._agent = host.agent
        self._process = psutil.Process()

    def collect(self) -> Iterator[AgentsRecord]:
        process = self._process
        with process.oneshot():
            cpu = process.cpu_times()
            yield AgentsRecord(
                time=timestamp(),
                process_id=process.pid,
                start_time=timestamp(int(process.create_time() * 10**9)),
                cpu_seconds=cpu.user + cpu.system,
                resident_bytes=process.memory_info().rss,
                threads=process.num_threads(),
                open_files=process.num_fds(),
                spool_bytes=self._agent.spool.bytes,
                spool_batches=self._agent.spool.batches,
                collected_records=self._agent.records,
                lost_records=self._agent.lost,
                spool_limit_bytes=self._agent.spool.limit_bytes,
                spool_shed_batches=self._agent.spool.shed,
            )
