"""What is known of one part of one exporter: its templates, sampling, numbers, and how it fares."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.receiver.encoding import Unsigned
from agent.receiver.flows import elements
from agent.receiver.flows.layout import Layout, Records
from agent.receiver.flows.meaning import Sampling
from agent.receiver.flows.sequence import Sequence
from telltale.api.network.v1.formats_pb2 import Format

# Real devices have some dozens; whoever floods us with templates pushes out its own.
MOST_TEMPLATES = 512
_MOST_SAMPLERS = 256
# Data that waits for its template: exporters repeat theirs every few minutes, some every half hour.
MOST_HELD_BYTES = 256 << 10
LONGEST_HELD_SECONDS = 1_800.0
# Without a datagram for this long, an exporter is silent.
SILENT_AFTER_SECONDS = 300.0


@dataclass(frozen=True)
class Place:
    """Which part of which exporter, in which format. The address is of 4 or 16 bytes."""

    address: bytes
    format: Format
    domain: int


@dataclass(frozen=True)
class Context:
    """What the head of a datagram says: when it was exported, and the device's uptime then."""

    export_ns: int
    uptime_ms: int | None


@dataclass(frozen=True)
class Held:
    """A set of data whose template has not come."""

    template: int
    data: bytes
    context: Context
    since: float


@dataclass
class Counters:
    """Since the receiver started."""

    datagrams: int = 0
    records: int = 0
    lost_records: int = 0
    lost_datagrams: int = 0
    malformed: int = 0
    undecoded: int = 0


@dataclass
class Exporter:
    """One part of one exporter. `heard` is in Unix seconds; 0 when nothing has come since the start."""

    place: Place
    templates: OrderedDict[int, Layout] = field(default_factory=OrderedDict)
    samplers: dict[int, int] = field(default_factory=dict)
    default_rate: int | None = None
    system_start_ms: int | None = None
    heard: float = 0.0
    active_since: float = 0.0
    skew_seconds: float | None = None
    counters: Counters = field(default_factory=Counters)
    sequence: Sequence = field(default_factory=Sequence)
    held: list[Held] = field(default_factory=list)
    held_bytes: int = 0
    # Sets given up since the last time that somebody took the number.
    given_up: int = 0

    @property
    def numbers_records(self) -> bool:
        """Whether its sequence numbers count records, and not datagrams."""
        return self.place.format in (Format.FORMAT_NETFLOW_V5, Format.FORMAT_IPFIX)

    @property
    def sampling(self) -> Sampling:
        default = self.default_rate
        if default is None and len(self.samplers) == 1:
            default = next(iter(self.samplers.values()))
        return Sampling(dict(self.samplers), default)

    def hear(self, now: float, context: Context | None) -> None:
        """A datagram came."""
        if now - self.heard > SILENT_AFTER_SECONDS:
            self.active_since = now
        self.heard = now
        self.counters.datagrams += 1
        if context is not None:
            self.skew_seconds = context.export_ns / 1e9 - now

    def learn(self, number: int, layout: Layout) -> bool:
        """Takes a template; returns whether it is a new one. Each is compiled once."""
        known = self.templates.get(number)
        if known is not None and known == layout:
            return False
        self.templates[number] = layout
        self.templates.move_to_end(number)
        while len(self.templates) > MOST_TEMPLATES:
            self.templates.popitem(last=False)
        return True

    def withdraw(self, number: int) -> bool:
        """Forgets a template."""
        return self.templates.pop(number, None) is not None

    def hold(self, template: int, data: bytes, context: Context, now: float) -> None:
        """Keeps data until its template comes; the oldest goes where there are too many."""
        if len(data) > MOST_HELD_BYTES:
            self._give_up(1)
            return
        self.held.append(Held(template, data, context, now))
        self.held_bytes += len(data)
        gone = 0
        while self.held_bytes > MOST_HELD_BYTES:
            self.held_bytes -= len(self.held[gone].data)
            gone += 1
        del self.held[:gone]
        self._give_up(gone)

    def release(self, template: int) -> list[Held]:
        """What waited for a template."""
        found = [one for one in self.held if one.template == template]
        if found:
            self._keep([one for one in self.held if one.template != template])
        return found

    def expire(self, now: float) -> None:
        """Gives up what has waited too long."""
        if self.held and now - self.held[0].since > LONGEST_HELD_SECONDS:
            kept = [one for one in self.held if now - one.since <= LONGEST_HELD_SECONDS]
            self._give_up(len(self.held) - len(kept))
            self._keep(kept)

    def give_up_held(self) -> None:
        """Gives up everything that waits."""
        self._give_up(len(self.held))
        self._keep([])

    def take_given_up(self) -> int:
        given_up, self.given_up = self.given_up, 0
        return given_up

    def take_missing(self) -> int:
        """Records or datagrams that its numbers say are missing, since the last time."""
        missing = self.sequence.take()
        if self.numbers_records:
            self.counters.lost_records += missing
        else:
            self.counters.lost_datagrams += missing
        return missing

    def told(self, layout: Layout, records: Records) -> bool:
        """Learns from options: sampling, and when the device started. Returns whether something was new."""
        before = dict(self.samplers), self.default_rate, self.system_start_ms
        starts = layout.numbers(records, elements.SYSTEM_START)
        if starts is not None and records.count:
            self.system_start_ms = int(starts[-1])
        for sampler, rate in _rates_told(layout, records):
            if sampler is None:
                self.default_rate = rate
            elif sampler in self.samplers or len(self.samplers) < _MOST_SAMPLERS:
                self.samplers[sampler] = rate
        return before != (self.samplers, self.default_rate, self.system_start_ms)

    def _give_up(self, sets: int) -> None:
        self.given_up += sets
        self.counters.undecoded += sets

    def _keep(self, held: list[Held]) -> None:
        self.held = held
        self.held_bytes = sum(len(one.data) for one in held)


def _rates_told(layout: Layout, records: Records) -> Iterator[tuple[int | None, int]]:
    """Samplers, None where none is named, and their rates."""
    intervals = _first(layout, records, elements.INTERVAL)
    if intervals is None:
        return
    spaces = layout.numbers(records, elements.SPACE)
    samplers = _first(layout, records, elements.SAMPLER)
    for index, interval in enumerate(intervals.tolist()):
        rate = interval
        if spaces is not None and interval:
            rate = (interval + int(spaces[index])) // interval
        if 0 < rate < 1 << 32:
            yield (None if samplers is None else int(samplers[index])), rate


def _first(layout: Layout, records: Records, choices: Iterable[elements.Element]) -> Unsigned | None:
    found = (layout.numbers(records, element) for element in choices)
    return next((numbers for numbers in found if numbers is not None), None)
