"""What `telltale up` shows, from made-up snapshots: the pictures are pure functions of them."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from telltale.cli.dashboard import changes, dashboard, gap_table, summary, totals
from telltale.cli.screen import Lines
from telltale.cli.snapshot import FindingView, GapView, Lags, ProductView, Rates, Snapshot
from telltale.cli.supervisor import ChildStatus, State

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FINDING = FindingView("2026-03-01 11:59:00", "high", "open", "web1 /var", "/var on web1 is 96 % full")


def product(name: str = "servers.cpu", *, state: str = "LIVE", stored: int | None = 8) -> ProductView:
    return ProductView(name, "samples", state, NOW - timedelta(minutes=5), 10, stored, 0.25, 1.2, 0.0)


def drawn(snapshot: Snapshot, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(dashboard(snapshot, NOW, "mesh"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_screen_shows_products_processes_and_findings() -> None:
    gateway = ChildStatus("gateway", State.RUNNING, 4711, 2, 50 * 2**20)
    picture = drawn(Snapshot((product(),), (gateway,), (FINDING,), 1))
    for word in ("servers.cpu", "samples", "0.2", "1.2s", "LIVE", "gateway", "4711", "50.0 MiB", "running"):
        assert word in picture
    assert "/var on web1 is 96 % full" in picture


def test_what_can_no_longer_be_had_is_a_table_and_in_the_summary() -> None:
    snapshot = Snapshot(gaps=(GapView("servers.cpu", "retention", 3, "2026-03-01 11:00:00"),))
    console = Console(file=io.StringIO(), width=140)
    console.print(gap_table(snapshot))
    assert isinstance(console.file, io.StringIO)
    for word in ("servers.cpu", "retention", "3", "2026-03-01 11:00:00"):
        assert word in console.file.getvalue()
    assert snapshot.as_json()["gaps"][0]["reason"] == "retention"


def test_a_product_that_is_gone_says_since_when() -> None:
    assert "UNREACHABLE for 5m" in drawn(Snapshot((product(state="UNREACHABLE"),)))


def test_a_process_that_cannot_start_says_why() -> None:
    broken = ChildStatus("writer", State.WAITING, None, 3, None, "exited with code 2: no disk")
    assert "waiting exited with code 2: no disk" in drawn(Snapshot(processes=(broken,)))


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [12, 24, 30, 40])
def test_a_low_screen_holds_the_picture_and_leaves_out_what_is_well(height: int, width: int) -> None:
    well = tuple(product(f"servers.p{number}") for number in range(17))
    gone = product("servers.gone", state="UNREACHABLE")
    running = tuple(ChildStatus(f"running{number}", State.RUNNING, 1) for number in range(6))
    broken = ChildStatus("writer", State.WAITING, None, 3, None, "exited with code 2: no disk")
    shown = Snapshot((*well, gone), (*running, broken), (FINDING,) * 6, 9, "the gateway is away")
    console = Console(file=io.StringIO(), width=width)
    lines = console.render_lines(dashboard(shown, NOW, "mesh " * 20, height), pad=False)
    picture = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert len(lines) <= height
    assert "UNR" in picture
    if width >= 80:
        assert "servers.gone" in picture and "writer" in picture
        assert "2026-03-01 11:59:00  high      open   web1 /var" in picture


def test_hostile_names_do_not_reach_the_terminal() -> None:
    hostile = FindingView("now", "high", "open", "\x1b[2J[red]x", "\x07beep")
    picture = drawn(Snapshot((product("a\x1b.b"),), (), (hostile,), 1))
    assert "\x1b" not in picture and "\x07" not in picture
    assert "[red]x" in picture


def test_only_changes_become_lines() -> None:
    starting = Snapshot(processes=(ChildStatus("gateway", State.STARTING, 1),))
    running = Snapshot((product(),), (ChildStatus("gateway", State.RUNNING, 1),), (FINDING,), 1)
    assert list(changes(Snapshot(), starting)) == ["gateway is starting, pid 1"]
    assert list(changes(starting, running)) == [
        "gateway is running, pid 1",
        "servers.cpu is LIVE",
        "servers.cpu has its first row in the database",
        "finding open (high) web1 /var: /var on web1 is 96 % full",
    ]
    assert list(changes(running, running)) == []


def test_the_first_row_is_told_once() -> None:
    none, some = Snapshot((product(stored=0),)), Snapshot((product(stored=3),))
    assert list(changes(none, some)) == ["servers.cpu has its first row in the database"]
    assert list(changes(some, Snapshot((product(stored=9),)))) == []


def test_the_summary_counts_what_came_in_and_what_was_stored() -> None:
    snapshot = Snapshot((product(), product("servers.memory", state="UNREACHABLE", stored=None)), (), (), 7)
    text = summary(snapshot)
    assert "products         2 (1 live)" in text
    assert "records in       20" in text
    assert "records stored   8" in text
    assert "findings         7" in text
    assert totals(snapshot) == "1 of 2 products live, 20 records in, 8 stored, 7 findings"


def test_the_summary_as_json_has_the_same_numbers() -> None:
    document = Snapshot((product(),), (ChildStatus("gateway", State.RUNNING, 1),), (FINDING,), 4).as_json()
    assert document["records_in"] == 10
    assert document["records_stored"] == 8
    assert document["findings"] == 4
    assert document["products"][0]["state_since"] == "2026-03-01T11:55:00+00:00"


def test_rates_survive_a_gateway_that_counts_from_nothing_again() -> None:
    rates = Rates()
    assert rates.of("p", 100, 0.0) is None
    assert rates.of("p", 150, 10.0) == 5.0
    assert rates.of("p", 3, 11.0) is None
    assert rates.of("p", 5, 12.0) == 2.0


def test_the_interval_between_two_batches_is_no_lag() -> None:
    lags = Lags()
    first, second = NOW, NOW + timedelta(seconds=10)
    assert lags.of("p", first, first, first + timedelta(seconds=9)) == 0.0
    assert lags.of("p", second, first, second + timedelta(seconds=0.1)) == pytest.approx(0.1)
    assert lags.of("p", second, second, second + timedelta(seconds=1)) == 0.0


def test_a_writer_that_stands_still_falls_behind_further_and_further() -> None:
    lags = Lags()
    behind = [
        lags.of("p", NOW + timedelta(seconds=look), NOW, NOW + timedelta(seconds=look)) for look in range(5)
    ]
    assert behind == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_a_rate_forgets_what_is_long_ago() -> None:
    rates = Rates()
    for second in range(100):
        rates.of("p", second * 1000, float(second))
    for second in range(100, 200):
        last = rates.of("p", 99_000, float(second))
    assert last == 0.0


def test_lines_have_a_clock_and_no_colour() -> None:
    output = io.StringIO()
    Lines(output).show(Snapshot(processes=(ChildStatus("gateway", State.RUNNING, 1),)))
    clock, _, words = output.getvalue().partition(" ")
    assert len(clock) == 8
    assert words == "gateway is running, pid 1\n"


def test_a_gateway_that_starts_again_tells_nothing_twice() -> None:
    output = io.StringIO()
    lines = Lines(output)
    for shown in (Snapshot((product(),)), Snapshot(problem="the gateway is away"), Snapshot((product(),))):
        lines.show(shown)
    assert output.getvalue().count("servers.cpu is LIVE") == 1
    assert output.getvalue().count("first row") == 1
