"""Everybody who sends flows: exporters that are permitted, within a bound, and addresses that are not."""

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.collectors import timestamp
from agent.receiver.flows.exporter import SILENT_AFTER_SECONDS, Exporter, Place
from telltale.api.network.v1.exporters_pb2 import ExportersRecord, ExporterState
from telltale.api.network.v1.formats_pb2 import Format

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A large network has some thousands of routers and switches; more are made up.
MOST_EXPORTERS = 4_096
# Addresses that are not permitted, of which anybody can make up any number.
MOST_REFUSED = 256
_MOST_REMEMBERED = 16_384
_FORGOTTEN_AFTER_SECONDS = 30 * 86_400.0


@dataclass
class Refused:
    """An address that no exporter is permitted at. Times in Unix seconds."""

    datagrams: int
    since: float


class Allowlist:
    """Which addresses may export; nobody else may."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._known: dict[str, tuple[bytes, bool]] = {}

    def look(self, host: str) -> tuple[bytes, bool]:
        """An address as bytes, and whether it may export."""
        known = self._known.get(host)
        if known is None:
            address = ipaddress.ip_address(host.partition("%")[0])
            if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            known = address.packed, any(address in network for network in self._networks)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[host] = known
        return known


class ExporterTable:
    """The exporters, those heard last at the end."""

    def __init__(self, known: Sequence[Exporter] = ()) -> None:
        self._exporters: OrderedDict[Place, Exporter] = OrderedDict((one.place, one) for one in known)
        self._refused: OrderedDict[bytes, Refused] = OrderedDict()
        # Sets that exporters held which had to make room.
        self.given_up = 0

    def __iter__(self) -> Iterator[Exporter]:
        return iter(self._exporters.values())

    def exporter(self, place: Place) -> Exporter:
        """The exporter of a place, a new one where there was none."""
        found = self._exporters.get(place)
        if found is None:
            found = self._exporters[place] = Exporter(place)
            if len(self._exporters) > MOST_EXPORTERS:
                _, gone = self._exporters.popitem(last=False)
                gone.give_up_held()
                self.given_up += gone.take_given_up()
        else:
            self._exporters.move_to_end(place)
        return found

    def forget(self, now: float) -> None:
        """Forgets whoever has been silent for so long that nobody waits for it any more."""
        while self._exporters:
            oldest = next(iter(self._exporters.values()))
            if now - oldest.heard <= _FORGOTTEN_AFTER_SECONDS:
                return
            del self._exporters[oldest.place]

    def refuse(self, address: bytes, now: float) -> None:
        """Counts a datagram of somebody who may not export."""
        refused = self._refused.get(address)
        if refused is None:
            self._refused[address] = Refused(1, now)
            if len(self._refused) > MOST_REFUSED:
                self._refused.popitem(last=False)
        else:
            refused.datagrams += 1
            self._refused.move_to_end(address)

    def records(self, now: float) -> list[ExportersRecord]:
        """The rows of network.exporters."""
        known = [_row(exporter, now) for exporter in self._exporters.values() if exporter.heard]
        unknown = [
            ExportersRecord(
                time=timestamp(int(now * 1e9)),
                address=address,
                state=ExporterState.EXPORTER_STATE_REFUSED,
                state_since=timestamp(int(refused.since * 1e9)),
                datagrams=refused.datagrams,
            )
            for address, refused in self._refused.items()
        ]
        return known + unknown


def _row(exporter: Exporter, now: float) -> ExportersRecord:
    silent = now - exporter.heard > SILENT_AFTER_SECONDS
    counters = exporter.counters
    state = ExporterState.EXPORTER_STATE_SILENT if silent else ExporterState.EXPORTER_STATE_ACTIVE
    return ExportersRecord(
        time=timestamp(int(now * 1e9)),
        address=exporter.place.address,
        observation_domain=exporter.place.domain,
        format=exporter.place.format,
        state=state,
        state_since=timestamp(int((exporter.heard if silent else exporter.active_since) * 1e9)),
        template_ids=[number for number, layout in sorted(exporter.templates.items()) if not layout.options],
        sampling_rate=exporter.sampling.default,
        clock_skew_seconds=exporter.skew_seconds,
        datagrams=counters.datagrams,
        records=counters.records,
        lost_records=counters.lost_records,
        lost_datagrams=counters.lost_datagrams,
        malformed_datagrams=counters.malformed,
        undecoded_sets=counters.undecoded,
    )


def named(place: Place) -> str:
    """A place in words, for people."""
    address = ipaddress.ip_address(place.address)
    words = Format.Name(place.format).removeprefix("FORMAT_").replace("_V", " v").replace("_", " ")
    return f"{address} ({words}, domain {place.domain})"
