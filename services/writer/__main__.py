"""The writer: stores every data product in one SQLite file. Run as `python -m services.writer`."""

import asyncio

from services.writer.catalog import foresee_for_ever
from services.writer.distrust import mark_for_ever
from services.writer.settings import WriterSettings
from services.writer.store import Store
from services.writer.writer import keep_files_few, prune_for_ever, write_for_ever
from telltale import naming, process
from telltale.buffers import keep_freed_buffers
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from telltale.settings import read_or_exit
from telltale.source.telemetry import self_metrics


async def run(settings: WriterSettings, stopping: asyncio.Event) -> None:
    """Stores until `stopping` is set."""
    async with (
        Workload.open(settings) as me,
        self_metrics(me, "writer", settings.state, settings.platform) as telemetry,
        Store(settings.database, me.trust.distrust) as store,
        # Nothing but health is served here.
        serving(
            me,
            settings.listen,
            Authenticator(me.trust, _platform(settings)),
            lambda _: None,
            auditor=telemetry.audit,
        ),
        asyncio.TaskGroup() as tasks,
    ):
        beside = [
            tasks.create_task(foresee_for_ever(me, settings, store)),
            tasks.create_task(prune_for_ever(store, settings.retention_seconds)),
            tasks.create_task(keep_files_few(store)),
            tasks.create_task(mark_for_ever(me.trust.distrust, store)),
        ]
        await write_for_ever(me, settings, store, telemetry.report_refusal, stopping)
        for task in beside:
            task.cancel()


def _platform(settings: WriterSettings) -> str:
    return naming.trust_domain(naming.PLATFORM, settings.mesh)


if __name__ == "__main__":
    writer = read_or_exit(WriterSettings, "The writer: stores every data product in one SQLite file.")
    keep_freed_buffers()
    process.run(lambda stopping: run(writer, stopping))
