"""A new version may add; whatever would change the meaning of stored bytes is said in a sentence."""

import pytest

from telltale.contract.compatibility import incompatibilities
from telltale.contract.product import Contract, contracts_in
from tests.support.protos import PROTOS, compile_image

FILE = "telltale/api/servers/v1/disk_usage.proto"
PARTS = """
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; }
message Part { string name = 1; Colour colour = 2; }
"""
TEXT = (PROTOS / FILE).read_text() + PARTS
TEXT = TEXT.replace("  // Device or remote path", "  repeated Part parts = 40;\n  // Device or remote path")


def contract(text: str) -> Contract:
    (only,) = contracts_in(compile_image({FILE: text}))
    return only


OLD = contract(TEXT)


def test_the_same_and_more_are_compatible() -> None:
    assert incompatibilities(OLD, OLD) == []
    more = TEXT.replace("repeated Part parts", "string more = 41;\n  repeated Part parts")
    more = more.replace("COLOUR_RED = 1;", "COLOUR_RED = 1; COLOUR_BLUE = 2;")
    assert incompatibilities(OLD, contract(more)) == []


def test_a_removed_field_is_compatible_when_its_number_and_name_are_reserved() -> None:
    new = TEXT.replace("repeated Part parts = 40;", 'reserved 40;\n  reserved "parts";')
    assert incompatibilities(OLD, contract(new)) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("repeated Part parts = 40;", "", "parts = 40 was removed; write `reserved 40;` in its place"),
        ("repeated Part parts = 40;", "reserved 40;", 'parts was removed; write `reserved "parts";`'),
        ("repeated Part parts = 40;", "repeated Part parts = 41;", "parts changed its number from 40 to 41"),
        (
            "repeated Part parts = 40;",
            "Part parts = 40;",
            "(parts) was repeated telltale.api.servers.v1.Part",
        ),
        ("uint64 total_bytes", "double total_bytes", "= 5 (total_bytes) was uint64 and is double now"),
        ("string device = 3", "string path = 3", "= 3 was called device and is called path now"),
        ("string name = 1;", "bytes name = 1;", "Part = 1 (name) was string and is bytes now"),
        ("COLOUR_RED = 1", "COLOUR_BLUE = 1", "= 1 was called COLOUR_RED and is called COLOUR_BLUE now"),
        ("COLOUR_RED = 1", "COLOUR_RED = 2", "Colour lost the value COLOUR_RED = 1; keep it"),
        ("    roles: ROLE_KEY\n", "", "(mountpoint) lost ROLE_KEY"),
        ('{semconv: "system.device"}', "{roles: ROLE_KEY}", "(device) gained ROLE_KEY"),
        ('unit: "By"', 'unit: "kBy"', "(total_bytes) was in the unit 'By' and is in 'kBy' now"),
        ('name: "servers.disk_usage"', 'name: "servers.disks"', "a new name is a new product"),
        ("kind: KIND_SAMPLES", "kind: KIND_EVENTS", "was KIND_SAMPLES and is KIND_EVENTS now"),
    ],
)
def test_what_breaks_is_said_in_one_sentence(old: str, new: str, sentence: str) -> None:
    assert old in TEXT
    (said,) = incompatibilities(OLD, contract(TEXT.replace(old, new, 1)))
    assert sentence in said


def test_two_swapped_fields_are_caught_although_their_types_agree() -> None:
    swapped = TEXT.replace("uint64 used_bytes = 6", "uint64 x = 6")
    swapped = swapped.replace("available_bytes = 7", "used_bytes = 7").replace(
        "uint64 x = 6", "uint64 available_bytes = 6"
    )
    found = incompatibilities(OLD, contract(swapped))
    assert [sentence.split("DiskUsageRecord = ")[1][:1] for sentence in found] == ["6", "7"]


def test_a_time_field_that_moves_is_caught() -> None:
    time = " [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}]"
    new = TEXT.replace(time, "", 1)
    new = new.replace(
        "  repeated Part parts", f"  google.protobuf.Timestamp at = 42{time};\n  repeated Part parts"
    )
    (said,) = incompatibilities(OLD, contract(new))
    assert "(time) lost ROLE_TIME" in said
