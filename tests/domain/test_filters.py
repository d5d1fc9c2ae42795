"""The filter of List takes what stream.proto promises and refuses the rest with its position."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltale.api.platform.v1.processes_pb2 import MetricAttribute, MetricKind, ProcessesRecord
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageRecord
from telltale.api.servers.v1.inventory_pb2 import InventoryRecord
from telltale.domain.filters import MAX_CONDITIONS, compile_filter
from telltale.errors import InvalidInput

SOURCE = "spiffe://servers.telltale.internal/agent/h1"


def host() -> InventoryRecord:
    record = InventoryRecord(
        host_name="web-1",
        os_name='Debian "GNU"',
        cpu_count=8,
        memory_bytes=2**40,
        addresses=["10.0.0.1", "fd00::1"],
    )
    record.time.FromJsonString("2026-01-31T12:00:00.5Z")
    return record


def takes(text: str, record: Any) -> bool:
    return compile_filter(text, record.DESCRIPTOR)(SOURCE, record)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        'host_name = "web-1"',
        'host_name : "eb-"',
        'host_name >= "web" AND host_name != "web-2"',
        r'os_name = "Debian \"GNU\""',
        "cpu_count=8 AND cpu_count>7.5 AND cpu_count<1e1",
        "memory_bytes = 1099511627776",
        f'source = "{SOURCE}"',
        'source : "/agent/"',
        'addresses = "fd00::1"',
        'addresses : "10."',
        'addresses != "10.0.0.2"',
        'time > "2026-01-31T12:00:00Z"',
        'time < "2026-01-31T13:00:00.6+01:00"',
        'boot_time != "2026-01-31T12:00:00Z"',
    ],
)
def test_a_condition_that_holds_takes_the_row(text: str) -> None:
    assert takes(text, host())


@pytest.mark.parametrize(
    "text",
    [
        'host_name = "web"',
        'host_name = "web-1" AND cpu_count > 8',
        'addresses != "10.0.0.1"',
        'addresses = "10."',
        'time > "2026-01-31T12:00:00.5Z"',
        'boot_time <= "2026-01-31T12:00:00Z"',
        'source != "spiffe://servers.telltale.internal/agent/h1"',
    ],
)
def test_a_condition_that_does_not_hold_leaves_the_row_out(text: str) -> None:
    assert not takes(text, host())


def test_an_absent_field_is_unequal_and_nothing_else() -> None:
    absent, zero = DiskUsageRecord(), DiskUsageRecord(total_inodes=0)
    assert takes("total_inodes != 0", absent) and not takes("total_inodes = 0", absent)
    assert takes("total_inodes = 0", zero)
    assert takes("used_ratio = 0", absent), "a field that cannot be absent is zero"


def test_enum_values_are_named() -> None:
    record = ProcessesRecord(metric_kind=MetricKind.METRIC_KIND_GAUGE, attributes=[MetricAttribute(name="a")])
    assert takes("metric_kind = METRIC_KIND_GAUGE", record)
    assert takes('metric_kind != "METRIC_KIND_COUNTER"', record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'colour = "red"',
            "character 1: 'colour' is nothing that can be compared; there are addresses, agent",
        ),
        ('cpu_count = "8"', "character 13: cpu_count is compared with a number"),
        ("host_name = 3", 'character 13: host_name is compared with a quoted text such as "text"'),
        ("cpu_count : 3", "character 11: cpu_count takes != < <= = > >= only"),
        ('time > "yesterday"', "character 8: time is compared with a quoted time"),
        ('host_name = "a" OR cpu_count = 1', "character 17: expected AND or the end, found 'OR'"),
        ('host_name = "a" AND', "character 20: expected a field, found the end"),
        ("host_name", "character 10: expected one of"),
        ("host_name =", "character 12: host_name is compared with"),
        ('host_name = "open', "character 13: '\"open' is no field, comparison or value"),
        ("host_name = 'a'", "character 13: \"'a'\" is no field"),
        ("cpu_count = 1" + " AND cpu_count = 1" * MAX_CONDITIONS, "more than 32 conditions"),
        ("x" * 5000, "longer than 4096 bytes"),
    ],
)
def test_what_is_wrong_is_named_with_its_position(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        compile_filter(text, InventoryRecord.DESCRIPTOR)
    assert message in str(refused.value)


def test_what_has_no_order_cannot_be_compared() -> None:
    with pytest.raises(InvalidInput, match="'attributes' is nothing that can be compared"):
        compile_filter('attributes = "a"', ProcessesRecord.DESCRIPTOR)


WORDS = st.sampled_from(
    [
        "host_name",
        "cpu_count",
        "time",
        "source",
        "addresses",
        "=",
        "!=",
        ":",
        "<",
        '"a"',
        '"',
        "3",
        "-1e999",
        "AND",
        "\\",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(WORDS, st.text(max_size=5))).map(" ".join)))
def test_garbage_is_refused_or_answers(text: str) -> None:
    try:
        answer = takes(text, host())
    except InvalidInput:
        return
    assert answer in (True, False)


@given(st.text())
def test_every_text_can_be_asked_for(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert takes(f'host_name = "{quoted}"', InventoryRecord(host_name=text))
