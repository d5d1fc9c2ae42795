"""What commands print."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from telltale.api.mesh.v1.batch_pb2 import Header, Loss, LossReason
from telltale.api.mesh.v1.product_pb2 import Field, Product, Role
from telltale.api.servers.v1.accounts_pb2 import AccountsList, AccountsRecord
from telltale.cli import show
from telltale.cli.products import entry_row


def test_a_message_becomes_plain_values() -> None:
    header = Header(
        product="servers.cpu",
        sequence=2**63,
        payload_sha256=b"\x01\xff",
        sealed_time=Timestamp(seconds=1, nanos=5_000_000),
        losses=[Loss(records=3, reason=LossReason.LOSS_REASON_BOUND)],
    )
    row = show.row_of(header)
    assert row["sequence"] == 2**63
    assert row["payload_sha256"] == "01ff"
    assert row["sealed_time"] == "1970-01-01T00:00:01.005Z"
    assert row["first_event_time"] is None
    assert row["losses"] == [{"records": 3, "reason": "BOUND", "detail": ""}]
    assert json.loads(json.dumps(row)) == row


def test_spans_are_seconds_and_unknown_enum_values_are_their_digits() -> None:
    product = Product(freshness=Duration(seconds=1, nanos=500_000_000))
    product.kind = 77  # type: ignore[assignment]
    row = show.row_of(product)
    assert row["freshness"] == 1.5
    assert row["kind"] == "77"
    assert show.row_of(Field(roles=[Role.ROLE_KEY]))["roles"] == ["KEY"]


@given(st.text())
def test_nothing_that_a_host_reports_drives_the_terminal(text: str) -> None:
    assert all(character.isprintable() for character in show.cell(text))


def test_an_escape_sequence_loses_its_escape() -> None:
    assert "\x1b" not in show.cell("\x1b[2Jgone")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((None, "-"), ("", "-"), ([], "-"), (["a", "b"], "a, b")),
        *((0.123456, "0.1235"), (12, "12"), (0, "0"), ({"a": 1}, '{"a": 1}')),
    ],
)
def test_cells_are_short(value: object, expected: str) -> None:
    assert show.cell(value) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB")],
)
def test_sizes_have_the_unit_that_fits(count: float | None, expected: str) -> None:
    assert show.size(count) == expected


@given(st.floats(min_value=0, max_value=2**60))
def test_every_size_is_short(count: float) -> None:
    assert len(show.size(count)) <= 11


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (-1.0, "0.0s"), (0.44, "0.4s"), (12.3, "12s"), (150, "2m"), (7300, "2h"), (300_000, "3d")],
)
def test_ages_have_the_unit_that_fits(seconds: float | None, expected: str) -> None:
    assert show.age(seconds) == expected


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(("A",), [], empty="There is none.")
    assert capsys.readouterr().out == "There is none.\n"


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(("A", "B"), [("x" * 300, "y" * 300)], empty="")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "x" * 300 in lines[1] and "y" * 300 in lines[1]


def test_documents_keep_numbers_exact(capsys: pytest.CaptureFixture[str]) -> None:
    show.document({"total": 2**64 - 1, "name": "né"})
    assert json.loads(capsys.readouterr().out) == {"total": 2**64 - 1, "name": "né"}


def test_json_is_escaped_where_a_terminal_would_obey_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = {"title": "\x1b]0;x\x07 \x9b2J \x7f \u202e né"}
    show.document(said)
    printed = capsys.readouterr().out
    assert json.loads(printed) == said
    assert "né" in printed
    assert not [one for one in printed if not one.isprintable() and one != "\n"]


def test_nested_values_do_not_drive_the_terminal_either() -> None:
    assert "\x9b" not in show.cell({"a": ["\x9b2J"]})


def test_columns_named_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(("[/x]",), [(1,)], empty="")
    assert capsys.readouterr().out.split() == ["[/x]", "1"]


def test_one_value_does_not_fill_the_screen() -> None:
    assert len(show.cell("x" * 10**7)) < 11_000


def test_what_is_masked_looks_neither_empty_nor_absent() -> None:
    record = AccountsRecord(shell="/bin/sh")
    entry = AccountsList.Entry(source="spiffe://servers.test/agent/a", record=record)
    masked = ("account", "groups", "once_had")
    row = entry_row(entry, masked, show.MASKED)
    assert (row["account"], row["groups"], row["shell"]) == ("(masked)", "(masked)", "/bin/sh")
    assert "once_had" not in row
    assert entry_row(entry, masked, None)["account"] is None
    assert entry_row(entry, (), show.MASKED)["account"] == ""


def test_what_is_masked_deeper_is_marked_in_every_part() -> None:
    row = {
        "one": {"a": "", "b": 1},
        "many": [{"a": ""}, {"a": "", "b": 2}],
        "named": {"x": {"a": ""}},
        "gone": None,
    }
    for name in ("one.a", "many.a", "named.a", "gone.a"):
        show.replace(row, name.split("."), "*")
    assert row == {
        "one": {"a": "*", "b": 1},
        "many": [{"a": "*"}, {"a": "*", "b": 2}],
        "named": {"x": {"a": "*"}},
        "gone": None,
    }
