"""Whatever bytes come to the port of a receiver: records that protobuf reads, or a count, within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from agent.receiver.flows import kept
from agent.receiver.flows.exporter import MOST_HELD_BYTES, MOST_TEMPLATES
from agent.receiver.flows.table import ExporterTable
from tests.support.datagrams import (
    FIVE_TUPLE,
    VARIABLE,
    a_set,
    decoder,
    five_tuple,
    flow_sample,
    ipfix,
    ipfix_options,
    ipfix_template,
    raw_header,
    records,
    sflow,
    turn,
    v5,
    v5_record,
    v9,
    v9_options,
    v9_template,
    variable,
)

NUMBER = st.sampled_from([0, 1, 2, 3, 255, 256, 257, 65_535])
LENGTH = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 255, VARIABLE]) | st.integers(0, 65_535)
# Elements that mean something, most of them, at lengths that do not fit.
ELEMENT = st.sampled_from([1, 2, 4, 6, 8, 12, 21, 22, 27, 34, 48, 50, 136, 152, 154, 158, 160, 305, 306])
FIELD = st.tuples(ELEMENT | st.integers(0, 32_767), LENGTH)
ENTERPRISE_FIELD = FIELD | st.tuples(st.sampled_from([9, 29_305, 2**32 - 1]), st.integers(0, 32_767), LENGTH)
BODY = st.binary(max_size=200)


def sets(template: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    return st.lists(template | st.builds(a_set, NUMBER, BODY), max_size=6)


V9 = st.builds(
    lambda parts, sequence: v9(*parts, sequence=sequence),
    sets(
        st.builds(v9_template, NUMBER, st.lists(FIELD, max_size=8))
        | st.builds(v9_options, NUMBER, st.lists(FIELD, max_size=2), st.lists(FIELD, max_size=4))
    ),
    st.integers(0, 2**32 - 1),
)
IPFIX = st.builds(
    lambda parts, sequence: ipfix(*parts, sequence=sequence),
    sets(
        st.builds(ipfix_template, NUMBER, st.lists(ENTERPRISE_FIELD, max_size=8))
        | st.builds(ipfix_options, NUMBER, st.integers(0, 3), st.lists(ENTERPRISE_FIELD, max_size=4))
    ),
    st.integers(0, 2**32 - 1),
)
SFLOW = st.builds(
    lambda frame, length: sflow(flow_sample(raw_header(frame, length))), BODY, st.integers(0, 9_000)
)
WHOLE = st.sampled_from(
    [
        v5(v5_record(), v5_record()),
        v9(v9_template(256, FIVE_TUPLE), a_set(256, five_tuple("192.0.2.10", "198.51.100.7"))),
        ipfix(ipfix_template(300, [(4, 1), (9, 100, VARIABLE)]), a_set(300, b"\x06" + variable(b"abc"))),
        sflow(flow_sample(raw_header(bytes(60), 60))),
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good datagram with some bytes changed, and cut off somewhere."""
    data = bytearray(draw(WHOLE))
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(st.lists(st.binary(max_size=300) | V9 | IPFIX | SFLOW | damaged(), max_size=5))
def test_any_datagram_becomes_records_or_a_count_and_takes_bounded_memory(datagrams: list[bytes]) -> None:
    made = decoder()
    for _ in range(2):
        for record in records(turn(made, *datagrams)):
            # Times that protobuf can show, addresses that are such.
            assert record.time.ToJsonString()
            assert {len(record.source_address), len(record.destination_address)} <= {0, 4, 16}
        for exporter in made.table:
            assert len(exporter.templates) <= MOST_TEMPLATES and exporter.held_bytes <= MOST_HELD_BYTES
    assert made.table.records(0.0) is not None
    # What was learned is kept and read again as it was.
    described = kept.describe(made.table)
    assert kept.describe(ExporterTable([kept.exporter_of(one) for one in described])) == described
    made.close()
