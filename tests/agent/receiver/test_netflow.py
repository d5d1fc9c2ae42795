"""NetFlow v5 and v9 and IPFIX: what exporters tell becomes records, and what is missing is known."""

import struct

import pytest

from agent.receiver.flows.decoder import MOST_RECORDS
from agent.receiver.flows.exporter import LONGEST_HELD_SECONDS, MOST_HELD_BYTES, MOST_TEMPLATES
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_BOUND, LOSS_REASON_UPSTREAM
from telltale.api.network.v1.exporters_pb2 import ExporterState
from telltale.api.network.v1.flows_pb2 import FlowEnd, FlowsRecord, FlowState, VendorField
from telltale.api.network.v1.formats_pb2 import Format
from tests.support.datagrams import (
    EXPORTED,
    FIVE_TUPLE,
    UPTIME_MS,
    VARIABLE,
    Field,
    a_set,
    decoder,
    five_tuple,
    flows,
    ipfix,
    ipfix_options,
    ipfix_template,
    packed,
    records,
    turn,
    v5,
    v5_record,
    v9,
    v9_options,
    v9_template,
    variable,
)

TEMPLATE = v9_template(256, FIVE_TUPLE)
DATA = a_set(256, five_tuple("192.0.2.10", "198.51.100.7"))


def one_of(fields: list[Field], *values: bytes) -> FlowsRecord:
    """The record of one IPFIX template and one record of it."""
    (record,) = flows(ipfix(ipfix_template(300, fields), a_set(300, *values)))
    return record


def test_a_record_of_version_5_has_every_field() -> None:
    (record,) = flows(v5(v5_record()))
    assert record.time.ToMilliseconds() == EXPORTED * 1_000 - 1_000
    assert record.start_time.ToMilliseconds() == EXPORTED * 1_000 - 2_000
    assert (record.source_address, record.destination_address) == (
        packed("192.0.2.10"),
        packed("198.51.100.7"),
    )
    assert (record.source_port, record.destination_port, record.protocol) == (40_000, 443, 6)
    assert (record.total_bytes, record.total_packets) == (5_000, 10)
    assert (record.tcp_flags, record.type_of_service) == (0x1B, 0x28)
    assert (record.input_interface, record.output_interface) == (3, 4)
    assert (record.source_as, record.destination_as) == (64_500, 64_501)
    assert record.next_hop_address == packed("192.0.2.254")
    assert (record.exporter_address, record.observation_domain) == (packed("192.0.2.1"), 0x102)
    assert record.format == Format.FORMAT_NETFLOW_V5
    assert not record.HasField("sampling_rate") and not record.scaled


def test_sampled_flows_are_scaled_and_say_so() -> None:
    # The two highest bits are a mode, not a rate.
    (record,) = flows(v5(v5_record(), sampling=0x4000 | 100))
    assert (record.total_bytes, record.total_packets) == (500_000, 1_000)
    assert record.sampling_rate == 100 and record.scaled


def test_a_rate_of_one_scales_nothing() -> None:
    (record,) = flows(v5(v5_record(), sampling=1))
    assert record.total_bytes == 5_000 and record.sampling_rate == 1 and not record.scaled


def test_uptimes_that_ran_over_are_before_the_export() -> None:
    fields: list[Field] = [(21, 4), (22, 4)]
    data = a_set(256, struct.pack("!II", 2**32 - 500, 2**32 - 1_500))
    (record,) = flows(v9(v9_template(256, fields), data, uptime=500))
    assert record.time.ToMilliseconds() == EXPORTED * 1_000 - 1_000
    assert record.start_time.ToMilliseconds() == EXPORTED * 1_000 - 2_000


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((150, 4, struct.pack("!I", EXPORTED - 20)), (151, 4, struct.pack("!I", EXPORTED - 10))),
        (
            (152, 8, struct.pack("!Q", (EXPORTED - 20) * 1_000)),
            (153, 8, struct.pack("!Q", (EXPORTED - 10) * 1_000)),
        ),
        (
            (154, 8, struct.pack("!II", EXPORTED - 20 + 2_208_988_800, 0)),
            (155, 8, struct.pack("!II", EXPORTED - 10 + 2_208_988_800, 0)),
        ),
        ((158, 4, struct.pack("!I", 20_000_000)), (159, 4, struct.pack("!I", 10_000_000))),
    ],
    ids=["seconds", "milliseconds", "ntp", "before export"],
)
def test_times_are_read_in_every_way_that_ipfix_tells_them(
    start: tuple[int, int, bytes], end: tuple[int, int, bytes]
) -> None:
    record = one_of([start[:2], end[:2]], start[2], end[2])
    assert (record.start_time.ToSeconds(), record.time.ToSeconds()) == (EXPORTED - 20, EXPORTED - 10)


def test_a_record_without_a_time_is_of_its_export() -> None:
    record = one_of([(4, 1)], b"\x11")
    assert record.time.ToSeconds() == EXPORTED and not record.HasField("start_time")


def test_times_beyond_the_calendar_are_none() -> None:
    record = one_of([(152, 8), (153, 8)], b"\xff" * 16)
    assert record.time.ToSeconds() == EXPORTED and not record.HasField("start_time")


def test_uptimes_of_ipfix_count_from_the_start_that_options_tell() -> None:
    start_ms = EXPORTED * 1_000 - 60_000
    options = ipfix_options(400, 1, [(144, 4), (160, 8)]), a_set(400, struct.pack("!IQ", 1, start_ms))
    data = ipfix_template(300, [(22, 4), (21, 4)]), a_set(300, struct.pack("!II", 1_000, 2_000))
    (record,) = flows(ipfix(*options, *data))
    assert record.start_time.ToMilliseconds() == start_ms + 1_000
    assert record.time.ToMilliseconds() == start_ms + 2_000


def test_ipv6_is_sixteen_bytes_and_a_template_with_both_means_the_one_that_is_set() -> None:
    both: list[Field] = [(8, 4), (27, 16), (12, 4), (28, 16)]
    four = packed("192.0.2.7") + bytes(16) + packed("192.0.2.8") + bytes(16)
    six = bytes(4) + packed("2001:db8::1") + bytes(4) + packed("2001:db8::2")
    found = flows(ipfix(ipfix_template(300, both), a_set(300, four, six)))
    assert [(one.source_address, one.destination_address) for one in found] == [
        (packed("192.0.2.7"), packed("192.0.2.8")),
        (packed("2001:db8::1"), packed("2001:db8::2")),
    ]


def test_what_fills_a_set_up_is_no_record() -> None:
    found = flows(v9(TEMPLATE, a_set(256, five_tuple("192.0.2.10", "198.51.100.7"), bytes(3))))
    assert len(found) == 1
    assert len(flows(v9(TEMPLATE, DATA) + bytes(400))) == 1


def test_numbers_of_any_length_are_read() -> None:
    record = one_of([(1, 3), (2, 5), (10, 2), (16, 4)], b"\1\0\0" + b"\0\0\0\1\0" + b"\0\7" + b"\0\1\0\0")
    assert (record.total_bytes, record.total_packets) == (65_536, 256)
    assert (record.input_interface, record.source_as) == (7, 65_536)


def test_type_and_code_of_icmp_are_no_port() -> None:
    (record,) = flows(v5(v5_record(protocol=1, ports=(0, 0x0301), flags=0)))
    assert (record.icmp_type_code, record.destination_port) == (0x0301, 0)
    assert not record.HasField("tcp_flags")


def test_both_directions_of_a_record_are_told_apart() -> None:
    asa = one_of([(231, 8), (232, 8), (298, 8), (299, 8), (233, 1)], struct.pack("!QQQQB", 100, 200, 1, 2, 3))
    assert (asa.total_bytes, asa.reverse_bytes, asa.total_packets, asa.reverse_packets) == (100, 200, 1, 2)
    assert asa.state == FlowState.FLOW_STATE_REFUSED
    biflow = one_of([(1, 8), (29305, 1, 8), (136, 1)], struct.pack("!QQB", 100, 200, 2))
    assert (biflow.total_bytes, biflow.reverse_bytes) == (100, 200) and not biflow.vendor_fields
    assert biflow.end == FlowEnd.FLOW_END_ACTIVE


def test_a_vendors_fields_are_kept_as_they_came() -> None:
    record = one_of([(9, 12_235, 4), (4, 1), (9, 45_003 & 0x7FFF, 2)], b"abcd", b"\x06", b"xy")
    assert list(record.vendor_fields) == [
        VendorField(enterprise=9, element=12_235, value=b"abcd"),
        VendorField(enterprise=9, element=45_003 & 0x7FFF, value=b"xy"),
    ]
    assert record.protocol == 6


def test_values_whose_length_stands_in_the_record_are_walked_over_and_kept() -> None:
    fields: list[Field] = [(4, 1), (9, 100, VARIABLE), (82, VARIABLE), (7, 2)]
    rows = [
        b"\x06" + variable(b"first") + variable(b"eth0") + b"\0\1",
        b"\x11" + variable(b"x" * 300) + variable(b"") + b"\0\2",
    ]
    found = flows(ipfix(ipfix_template(300, fields), a_set(300, *rows)))
    assert [(one.protocol, one.source_port) for one in found] == [(6, 1), (17, 2)]
    assert [[field.value for field in one.vendor_fields] for one in found] == [[b"first"], [b"x" * 300]]


def test_the_rate_of_a_sampler_scales_the_flows_that_name_it() -> None:
    told = v9_options(400, [(1, 4)], [(48, 1), (50, 4)]), a_set(400, bytes(4) + struct.pack("!BI", 1, 10))
    other = a_set(400, bytes(4) + struct.pack("!BI", 2, 1_000))
    data = v9_template(256, [(1, 4), (48, 1)]), a_set(256, struct.pack("!IBIB", 5, 1, 5, 2))
    found = flows(v9(*told, other, *data))
    assert [(one.total_bytes, one.sampling_rate) for one in found] == [(50, 10), (5_000, 1_000)]


def test_one_of_so_many_more_packets_is_the_rate() -> None:
    told = ipfix_options(400, 1, [(149, 4), (305, 4), (306, 4)]), a_set(400, struct.pack("!III", 7, 1, 99))
    data = ipfix_template(300, [(1, 4)]), a_set(300, struct.pack("!I", 5))
    (record,) = flows(ipfix(*told, *data))
    assert (record.total_bytes, record.sampling_rate) == (500, 100)


def test_what_scaling_would_run_over_is_as_much_as_fits() -> None:
    record = one_of([(1, 8), (34, 4)], struct.pack("!QI", 2**63, 1_000))
    assert record.total_bytes == 2**64 - 1


def test_data_waits_for_its_template() -> None:
    made = decoder()
    assert turn(made, v9(DATA, sequence=1)).records == 0
    (record,) = records(turn(made, v9(TEMPLATE, sequence=2)))
    assert record.source_address == packed("192.0.2.10")
    assert not made.close()


def test_data_that_waits_too_long_or_takes_too_much_room_is_counted_as_lost() -> None:
    made = decoder()
    turn(made, v9(DATA))
    late = turn(made, v9(sequence=1), at=EXPORTED + LONGEST_HELD_SECONDS + 1)
    assert [(loss.reason, "did not come in time" in loss.detail) for loss in late.losses] == [
        (LOSS_REASON_BOUND, True)
    ]
    full = a_set(999, bytes(60_000))
    for sequence in range(2, 12):
        turn(made, v9(full, sequence=sequence), at=EXPORTED + LONGEST_HELD_SECONDS + 1)
    (exporter,) = made.table
    assert exporter.held_bytes <= MOST_HELD_BYTES
    assert exporter.counters.undecoded == 1 + 10 - MOST_HELD_BYTES // 60_000


def test_a_template_that_changes_is_read_in_its_new_way_and_a_withdrawn_one_is_not() -> None:
    made = decoder()
    first = turn(made, ipfix(ipfix_template(300, [(7, 2)]), a_set(300, b"\0\7")))
    again = turn(made, ipfix(ipfix_template(300, [(11, 2)]), a_set(300, b"\0\7"), sequence=1))
    assert [one.source_port for one in records(first)] == [7]
    assert [one.destination_port for one in records(again)] == [7]
    assert turn(made, ipfix(ipfix_template(300, []), a_set(300, b"\0\7"), sequence=2)).records == 0


def test_templates_are_of_one_exporter_and_one_observation_domain() -> None:
    made = decoder()
    turn(made, v9(TEMPLATE, domain=1))
    assert turn(made, v9(DATA, domain=2)).records == 0
    assert turn(made, v9(DATA, domain=1), host="192.0.2.2").records == 0
    assert turn(made, v9(DATA, domain=1)).records == 1


def test_a_flood_of_templates_takes_bounded_memory() -> None:
    made = decoder()
    for first in range(256, 60_000, 1_000):
        turn(made, v9(*(v9_template(number, [(4, 1)]) for number in range(first, first + 1_000))))
    (exporter,) = made.table
    assert len(exporter.templates) == MOST_TEMPLATES


def test_a_flood_of_templates_with_data_is_decoded_within_a_bound_and_the_rest_is_counted() -> None:
    sets = [
        part for number in range(256, 456) for part in (v9_template(number, [(4, 1)]), a_set(number, b"\6"))
    ]
    decoded = turn(decoder(), v9(*sets))
    (loss,) = decoded.losses
    assert (
        decoded.records + loss.records == 200
        and loss.records > 0
        and "too many templates at once" in loss.detail
    )


def test_records_of_a_byte_are_decoded_within_a_bound_and_the_rest_is_counted() -> None:
    made, row = decoder(), a_set(256, bytes(60_000))
    datagrams = [v9(v9_template(256, [(4, 1)])), *(v9(row, sequence=number) for number in range(1, 21))]
    decoded = turn(made, *datagrams)
    assert MOST_RECORDS - 60_000 < decoded.records <= MOST_RECORDS
    (loss,) = decoded.losses
    assert decoded.records + loss.records == 20 * 60_000 and loss.reason == LOSS_REASON_BOUND
    # The next turn has its own.
    assert turn(made, v9(row, sequence=21)).records == 60_000


def test_gaps_in_the_numbers_of_records_are_records_that_are_missing() -> None:
    made = decoder()
    turn(made, v5(v5_record(), v5_record(), sequence=100))
    assert not turn(made, v5(v5_record(), sequence=102)).losses
    (loss,) = turn(made, v5(v5_record(), sequence=110)).losses
    assert (loss.records, loss.reason) == (7, LOSS_REASON_UPSTREAM)
    assert "records of 192.0.2.1 (NETFLOW v5, domain 258) are missing" in loss.detail


def test_gaps_in_the_numbers_of_datagrams_are_datagrams_that_are_missing() -> None:
    made = decoder()
    turn(made, v9(TEMPLATE, DATA, sequence=1))
    (loss,) = turn(made, v9(DATA, sequence=4)).losses
    assert loss.records == 0 and "datagrams of 192.0.2.1" in loss.detail
    (exporter,) = made.table
    assert exporter.counters.lost_datagrams == 2


def test_datagrams_that_overtake_one_another_are_not_lost() -> None:
    made = decoder()
    decoded = turn(made, *(v9(TEMPLATE, DATA, sequence=number) for number in (1, 3, 2, 4)))
    assert decoded.records == 4 and not decoded.losses


def test_an_exporter_that_starts_anew_has_lost_nothing() -> None:
    made = decoder()
    turn(made, v9(TEMPLATE, DATA, sequence=4_000_000_000))
    assert not turn(made, v9(TEMPLATE, DATA, sequence=0)).losses
    made = decoder()
    turn(made, v9(TEMPLATE, DATA, sequence=2**32 - 1))
    assert not turn(made, v9(DATA, sequence=0)).losses


def test_records_that_nobody_could_count_are_not_called_missing() -> None:
    made = decoder()
    turn(made, ipfix(a_set(300, b"\0\7\0\7"), sequence=10))
    assert not turn(made, ipfix(ipfix_template(301, [(7, 2)]), a_set(301, b"\0\7"), sequence=14)).losses


def test_strangers_are_counted_and_not_decoded() -> None:
    made = decoder()
    assert turn(made, v5(v5_record()), v5(v5_record()), host="203.0.113.9").records == 0
    (row,) = made.table.records(EXPORTED + 1.0)
    assert row.address == packed("203.0.113.9") and row.datagrams == 2
    assert row.state == ExporterState.EXPORTER_STATE_REFUSED


def test_any_number_of_strangers_takes_bounded_memory() -> None:
    made = decoder()
    for number in range(1_000):
        turn(made, v5(v5_record()), host=f"203.0.{number % 250}.{number // 250}")
    assert len(made.table.records(EXPORTED)) == 256


def test_an_exporter_that_falls_silent_stays_with_since_when() -> None:
    made = decoder()
    turn(made, v9(TEMPLATE, DATA), at=EXPORTED + 2)
    (active,) = made.table.records(EXPORTED + 10.0)
    assert active.state == ExporterState.EXPORTER_STATE_ACTIVE and list(active.template_ids) == [256]
    assert active.clock_skew_seconds == -2.0 and active.records == 1
    (silent,) = made.table.records(EXPORTED + 400.0)
    assert silent.state == ExporterState.EXPORTER_STATE_SILENT
    assert silent.state_since.ToSeconds() == EXPORTED + 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\5",
        v5(v5_record())[:-1],
        struct.pack("!HH", 5, 0) + bytes(20),
        b"\0\7" + bytes(60),
        v9()[:-1],
        v9(b"\0\0\0\3abcd"),
        v9(struct.pack("!HH", 256, 400)),
        v9(a_set(0, struct.pack("!HH", 256, 60_000))),
        v9(v9_template(256, [(4, 0)])),
        v9(v9_template(256, [(4, 1)] * 600)),
        ipfix()[:-1],
        struct.pack("!HHIII", 10, 8, 0, 0, 0),
        ipfix(a_set(2, struct.pack("!HHHH", 300, 1, 0x8004, 4))),
        ipfix(a_set(3, struct.pack("!HHH", 300, 1, 2), struct.pack("!HH", 4, 4))),
    ],
)
def test_what_is_no_datagram_of_flows_is_counted_and_nothing_else(data: bytes) -> None:
    made = decoder()
    decoded = turn(made, data)
    assert decoded.records == 0 and not decoded.parts
    assert ["are not what they should be" in loss.detail for loss in decoded.losses] == [True]
    assert sum(exporter.counters.malformed for exporter in made.table) == 1
    # And the next one is read as if nothing had been.
    assert turn(made, v9(TEMPLATE, DATA, uptime=UPTIME_MS)).records == 1


def test_an_exporter_that_numbers_its_messages_after_their_records_loses_nothing_by_that() -> None:
    made = decoder()
    template, row = ipfix_template(300, [(7, 2)]), b"\0\7"
    # So many records in all, those of the message included.
    for total, count in ((3, 3), (5, 2), (9, 4)):
        assert not turn(made, ipfix(template, a_set(300, row * count), sequence=total)).losses
    (loss,) = turn(made, ipfix(template, a_set(300, row), sequence=20)).losses
    assert loss.records == 10
