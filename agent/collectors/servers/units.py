"""`servers.units`: systemd's units, from its files and the links that it keeps below /run.

systemd itself is not asked: its sockets take commands as well as questions, and the agent holds nothing that
commands.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from agent.collectors import CannotCollect, Collector, Host, timestamp
from agent.host.unit_files import (
    Definition,
    Definitions,
    UnitFiles,
    find_unit_files,
    is_unit,
    template_of,
)
from telltale.api.servers.v1.units_pb2 import (
    ENABLEMENT_DISABLED,
    ENABLEMENT_ENABLED,
    ENABLEMENT_MASKED,
    ENABLEMENT_STATIC,
    ENABLEMENT_TRANSIENT,
    Enablement,
    UnitsRecord,
)

INVOCATION = "invocation:"


class Invocation(NamedTuple):
    """One run of a unit."""

    id: str
    since_unix_ns: int


def read_invocations(directory: Path) -> dict[str, Invocation]:
    """The runs by unit name: systemd keeps a link for each unit from its start to its stop."""
    running = {}
    for name in os.listdir(directory):
        unit = name.removeprefix(INVOCATION)
        if unit == name or not is_unit(unit):
            continue
        link = directory / name
        try:
            running[unit] = Invocation(os.readlink(link), link.lstat().st_mtime_ns)
        except OSError:  # it stopped meanwhile
            continue
    return running


def enablement(unit: str, files: UnitFiles, definition: Definition, run: Path) -> Enablement:
    """Whether something starts the unit by itself."""
    if unit in files.masked:
        return ENABLEMENT_MASKED
    path = files.file_of(unit)
    if path is None or path.is_relative_to(run):
        return ENABLEMENT_TRANSIENT
    if unit in files.wanted:
        return ENABLEMENT_ENABLED
    return ENABLEMENT_DISABLED if definition.installable else ENABLEMENT_STATIC


class Units(Collector):
    """Every unit of the system that has a file or runs."""

    product = "servers.units"
    interval = timedelta(seconds=60)

    def __init__(self, host: Host) -> None:
        self._host = host
        self._definitions = Definitions()

    def collect(self) -> Iterator[UnitsRecord]:
        # systemd makes this directory when, and only when, it is the init process.
        if not (self._host.run / "systemd/system").is_dir():
            raise CannotCollect("systemd is not the init process of this host")
        time = timestamp()
        files = find_unit_files(self._host)
        running = read_invocations(self._host.run / "systemd/units")
        # A template stands for its instances, and is no unit itself.
        units = {unit for unit in (*files.paths, *files.wanted) if not _is_template(unit)}
        units |= files.masked | running.keys()
        for unit in sorted(units):
            path, drop_ins = files.file_of(unit), files.drop_ins_of(unit)
            definition, digest = Definition(), ""
            if path is not None:
                definition, digest = self._definitions.of(unit, [path, *drop_ins])
            record = UnitsRecord(
                time=time,
                unit=unit,
                description=definition.description,
                active=unit in running,
                enablement=enablement(unit, files, definition, self._host.run),
                path=str(path or ""),
                drop_ins=[str(drop_in) for drop_in in drop_ins],
                account=definition.account,
                command="\n".join(definition.commands),
                definition_sha256=digest,
            )
            if unit in running:
                record.invocation_id = running[unit].id
                record.active_since.CopyFrom(timestamp(running[unit].since_unix_ns))
            yield record
        self._definitions.keep(units)


def _is_template(unit: str) -> bool:
    return "@" in unit and template_of(unit) == unit
