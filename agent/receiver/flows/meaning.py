"""What the fields of a template mean: from records as they lie in memory to the columns of network.flows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agent.receiver.encoding import Column, Columns, Mask, Numbers, Signed, Texts, Times, Unsigned
from agent.receiver.flows import elements
from agent.receiver.flows.layout import Layout, Records

TCP = 6
_ICMP = (1, 58)
_NS_PER_MS = 1_000_000
# Up to the year 2262: what nanoseconds since 1970 hold in 64 bits.
_LAST_MS = 9_200_000_000_000
# Seconds from 1900, where NTP counts from, to 1970.
_NTP_EPOCH = 2_208_988_800
_MOST = np.uint64(0xFFFFFFFFFFFFFFFF)
# Numbers that the record holds in 64 bits; all others are cut to 32, as protobuf would.
_WIDE = {"total_bytes", "total_packets", "reverse_bytes", "reverse_packets"}
_SCALED = ("total_bytes", "total_packets", "reverse_bytes", "reverse_packets")


@dataclass(frozen=True)
class Exported:
    """What is known of records beside themselves: one value for each, unless it is the same for all.

    export_ns: nanoseconds since 1970 when they were exported. uptime_ms: its uptime then, None in IPFIX.
    system_start_ms: when the device started, in milliseconds since 1970, where it says so.
    """

    address: bytes
    domain: int
    format: int
    export_ns: Signed
    uptime_ms: Signed | None = None
    system_start_ms: int | None = None


@dataclass(frozen=True)
class Sampling:
    """One of how many packets an exporter looks at: for each of its samplers, and where none is named."""

    by_sampler: Mapping[int, int]
    default: int | None = None


def to_columns(layout: Layout, records: Records, exported: Exported, sampling: Sampling) -> Columns:
    """The columns of network.flows."""
    columns: dict[str, Column] = {}
    for name, choices in elements.NUMBERS.items():
        for element in choices:
            values = layout.numbers(records, element)
            if values is not None:
                columns[name] = Numbers(values if name in _WIDE else values & np.uint64(0xFFFFFFFF))
                break
    for name, (four, six) in elements.ADDRESSES.items():
        texts = layout.addresses(records, four, six)
        if texts is not None:
            columns[name] = texts
    _set_times(columns, layout, records, exported)
    _set_words(columns)
    set_ports(columns)
    set_exporter(columns, records.count, exported)
    set_sampling(columns, _rates(layout, records, sampling))
    return Columns(records.count, columns, records.vendors)


def set_exporter(columns: dict[str, Column], count: int, exported: Exported) -> None:
    columns["exporter_address"] = texts_of(exported.address, count)
    columns["observation_domain"] = Numbers(np.full(count, exported.domain, np.uint64))
    columns["format"] = Numbers(np.full(count, exported.format, np.uint64))


def set_ports(columns: dict[str, Column]) -> None:
    """Ports where there are some: of ICMP, exporters tell type and code in their place. Flags are TCP's."""
    protocol = columns.get("protocol")
    if not isinstance(protocol, Numbers):
        return
    icmp: Mask = np.isin(protocol.values, _ICMP)
    port = columns.get("destination_port")
    if isinstance(port, Numbers):
        if "icmp_type_code" not in columns:
            columns["icmp_type_code"] = Numbers(port.values, icmp)
        columns["destination_port"] = Numbers(np.where(icmp, np.uint64(0), port.values))
    told = columns.get("icmp_type_code")
    if isinstance(told, Numbers):
        columns["icmp_type_code"] = Numbers(told.values, icmp)
    flags = columns.get("tcp_flags")
    if isinstance(flags, Numbers):
        columns["tcp_flags"] = Numbers(flags.values, protocol.values == TCP)


def set_sampling(columns: dict[str, Column], rates: Unsigned | None) -> None:
    """Scales bytes and packets by the rates, and says so. A rate of 0 is none."""
    if rates is None:
        return
    rates = rates & np.uint64(0xFFFFFFFF)
    factors = np.maximum(rates, np.uint64(1))
    for name in _SCALED:
        column = columns.get(name)
        if isinstance(column, Numbers):
            # What would not fit is as much as fits.
            fits = column.values <= _MOST // factors
            columns[name] = Numbers(np.where(fits, column.values * factors, _MOST), column.present)
    columns["sampling_rate"] = Numbers(rates, rates > 0)
    columns["scaled"] = Numbers((rates > 1).astype(np.uint64))


def texts_of(text: bytes, count: int) -> Texts:
    """The same bytes for every record."""
    cells = np.tile(np.frombuffer(text, np.uint8), (count, 1))
    return Texts(cells, np.full(count, len(text), np.int64))


def _set_words(columns: dict[str, Column]) -> None:
    end, state = columns.get("end"), columns.get("state")
    if isinstance(end, Numbers):
        columns["end"] = Numbers(np.where(end.values <= elements.LAST_END, end.values, np.uint64(0)))
    if isinstance(state, Numbers):
        states = np.zeros(len(state.values), np.uint64)
        for told, meant in elements.FIREWALL_STATES.items():
            states[state.values == told] = meant
        columns["state"] = Numbers(states)


def _set_times(columns: dict[str, Column], layout: Layout, records: Records, exported: Exported) -> None:
    found: dict[str, Times] = {}
    for name, choices in elements.TIMES.items():
        for element, how in choices:
            values = layout.numbers(records, element)
            times = None if values is None else _times(values, how, exported)
            if times is not None:
                found[name] = times
                break
    end, start = found.get("time"), found.get("start_time")
    if end is None:
        # When it was exported is no earlier than its last packet.
        end = Times(exported.export_ns)
    elif end.present is not None:
        end = Times(np.where(end.present, end.unix_ns, exported.export_ns))
    columns["time"] = end
    if start is not None:
        columns["start_time"] = start


def _times(values: Unsigned, how: str, exported: Exported) -> Times | None:
    """Times in the way that the element tells them; None when they count from what nobody said."""
    if how == elements.SECONDS:
        return Times((values & np.uint64(0xFFFFFFFF)).astype(np.int64) * 10**9, values > 0)
    if how == elements.MILLISECONDS:
        known = (values > 0) & (values <= _LAST_MS)
        return Times(np.where(known, values, np.uint64(0)).astype(np.int64) * _NS_PER_MS, known)
    if how == elements.NTP:
        seconds = (values >> np.uint64(32)).astype(np.int64) - _NTP_EPOCH
        parts = ((values & np.uint64(0xFFFFFFFF)) * np.uint64(10**9)) >> np.uint64(32)
        return Times(seconds * 10**9 + parts.astype(np.int64), seconds > 0)
    if how == elements.BEFORE_EXPORT:
        before = (values & np.uint64(0xFFFFFFFF)).astype(np.int64) * 1_000
        return Times(exported.export_ns - before)
    uptime = (values & np.uint64(0xFFFFFFFF)).astype(np.int64)
    if exported.uptime_ms is not None:
        # Both run over after 49 days; what lies between them is less.
        since = np.remainder(exported.uptime_ms - uptime + 2**31, 2**32) - 2**31
        return Times(exported.export_ns - since * _NS_PER_MS)
    starts = _system_start(exported)
    return None if starts is None else Times(starts + uptime * _NS_PER_MS)


def _system_start(exported: Exported) -> int | None:
    """Nanoseconds since 1970 at the device's start, where it said so."""
    start = exported.system_start_ms
    return None if start is None or not 0 < start < _LAST_MS - 2**32 else start * _NS_PER_MS


def _rates(layout: Layout, records: Records, sampling: Sampling) -> Unsigned | None:
    for element in elements.INTERVAL:
        told = layout.numbers(records, element)
        if told is not None:
            return told
    for element in elements.SAMPLER:
        samplers = layout.numbers(records, element)
        if samplers is not None and sampling.by_sampler:
            return _rates_of(samplers, sampling)
    if sampling.default is None:
        return None
    return np.full(records.count, sampling.default, np.uint64)


def _rates_of(samplers: Unsigned, sampling: Sampling) -> Unsigned:
    rates = np.zeros(len(samplers), np.uint64)
    for sampler in np.unique(samplers).tolist()[:256]:
        rates[samplers == sampler] = sampling.by_sampler.get(sampler, sampling.default or 0)
    return rates
