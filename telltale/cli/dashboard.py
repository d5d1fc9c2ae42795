"""Snapshots as a terminal shows them: tables for people, plain lines for logs. Pure functions."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from telltale.cli.show import age, printable, size
from telltale.cli.snapshot import FindingView, ProductView, Snapshot
from telltale.cli.supervisor import ChildStatus, State

LIVE = "LIVE"
_LONGEST_ENTITY = 32
# No screen is higher.
_TALL = 10_000
_STATE_STYLES = {State.RUNNING: "green", State.STARTING: "yellow", State.WAITING: "red", State.STOPPED: "dim"}
_SEVERITY_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


def dashboard(snapshot: Snapshot, now: datetime, header: str, height: int = _TALL) -> RenderableType:
    """The whole screen. Where it is too low for everything, what is well makes room for what is not."""
    above: list[RenderableType] = [_line(header, "bold"), _line("")]
    if snapshot.problem:
        above += [_line(printable(snapshot.problem), "yellow"), _line("")]
    products, found = len(snapshot.products), snapshot.findings
    # Each of the three tables has a line of headings, and an empty line parts it from the next.
    missing = len(above) + products + len(snapshot.processes) + len(found) + 5 - height
    processes: RenderableType = process_table(snapshot)
    if missing > 0:
        processes = process_line(snapshot)
        missing -= len(snapshot.processes)
    if missing > 0:
        found = found[: max(1, len(found) - missing)]
        missing -= len(snapshot.findings) - len(found)
    table = product_table(snapshot, now, most=max(1, products - max(0, missing)))
    return Group(*above, table, _line(""), processes, _line(""), findings(found))


def product_table(snapshot: Snapshot, now: datetime, most: int = _TALL) -> Table:
    """A line for each product. Of more than `most` it leaves out some that live, and says how many."""
    products = snapshot.products
    left_out = 0
    if len(products) > most:
        by_need = sorted(products, key=lambda product: product.state == LIVE)
        kept = {product.name for product in by_need[: most - 1]}
        left_out = len(products) - len(kept)
        products = tuple(product for product in products if product.name in kept)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("PRODUCT", "KIND"):
        table.add_column(name, no_wrap=True)
    for name in ("RATE/S", "FRESH", "LAG", "RECEIVED", "STORED"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True)
    for product in products:
        table.add_row(
            Text(printable(product.name)),
            product.kind,
            rate(product.rate),
            age(product.freshness),
            age(product.lag),
            f"{product.received:,}",
            "-" if product.stored is None else f"{product.stored:,}",
            state(product, now),
        )
    if left_out:
        table.add_row(Text(f"... {left_out} more", style="dim"))
    return table


def gap_table(snapshot: Snapshot) -> Table:
    """A line for each product and reason of what can no longer be had."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("PRODUCT", "GAPS", "REASON", "LAST NOTICED"):
        table.add_column(name, justify="right" if name == "GAPS" else "left", no_wrap=True)
    for gap in snapshot.gaps:
        table.add_row(Text(printable(gap.product)), f"{gap.gaps:,}", printable(gap.reason), gap.noticed)
    return table


def process_line(snapshot: Snapshot) -> Text:
    """The processes in one line: how many run, and which do not."""
    running = sum(process.state is State.RUNNING for process in snapshot.processes)
    line = _line(f"PROCESSES  {running} of {len(snapshot.processes)} run", "bold")
    for process in snapshot.processes:
        if process.state is not State.RUNNING:
            words = f"  {process.name} {process.state.value} {printable(process.detail)}".rstrip()
            line.append(words, style=_STATE_STYLES[process.state])
    return line


def process_table(snapshot: Snapshot) -> Table:
    """A line for each process."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PROCESS")
    for name in ("PID", "RESTARTS", "MEMORY"):
        table.add_column(name, justify="right")
    table.add_column("STATE", overflow="ellipsis", no_wrap=True)
    for process in snapshot.processes:
        words = Text(process.state.value, style=_STATE_STYLES[process.state])
        if process.detail:
            words.append(f" {printable(process.detail)}", style="default")
        table.add_row(
            process.name,
            "-" if process.pid is None else str(process.pid),
            str(process.restarts),
            size(process.rss_bytes),
            words,
        )
    return table


def findings(found: Sequence[FindingView]) -> RenderableType:
    """The latest findings, or that there is none."""
    if not found:
        return Text("FINDINGS  none", style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("FINDINGS", "SEVERITY", "STATE"):
        table.add_column(name, no_wrap=True)
    table.add_column("ENTITY", no_wrap=True, max_width=_LONGEST_ENTITY)
    # It alone gives way on a narrow screen.
    table.add_column("WHAT", overflow="ellipsis", no_wrap=True, ratio=1)
    for finding in found:
        table.add_row(
            printable(finding.time),
            Text(printable(finding.severity), style=_SEVERITY_STYLES.get(finding.severity, "")),
            printable(finding.state),
            Text(printable(finding.entity)),
            Text(printable(finding.title)),
        )
    return table


def state(product: ProductView, now: datetime) -> Text:
    """LIVE, or since when it is not."""
    if product.state == LIVE:
        return Text(product.state, style="green")
    since = f" for {age((now - product.state_since).total_seconds())}" if product.state_since else ""
    return Text(f"{product.state}{since}", style="red")


def rate(records: float | None) -> str:
    if records is None:
        return "-"
    return f"{records:.1f}" if records < 100 else f"{records:,.0f}"


def changes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """What happened between two snapshots, a line each, for an output that is no terminal."""
    then = {process.name: process for process in before.processes}
    for process in after.processes:
        if _differs(then.get(process.name), process):
            yield _process_line(process)
    known = {product.name: product for product in before.products}
    for product in after.products:
        earlier = known.get(product.name)
        if earlier is None or earlier.state != product.state:
            yield f"{product.name} is {product.state}"
        if not (earlier and earlier.stored) and product.stored:
            yield f"{product.name} has its first row in the database"
    seen = set(before.findings)
    for finding in reversed(after.findings):
        if finding not in seen:
            yield printable(f"finding {finding.state} ({finding.severity}) {finding.entity}: {finding.title}")
    if after.problem and after.problem != before.problem:
        yield printable(after.problem)


def summary(snapshot: Snapshot) -> str:
    """What a run with `--for` says at its end."""
    live = sum(product.state == LIVE for product in snapshot.products)
    lines = [f"{'PRODUCT':<28} {'IN':>10} {'STORED':>10}  STATE"]
    lines += [
        f"{product.name:<28} {product.received:>10,} {product.stored or 0:>10,}  {product.state}"
        for product in snapshot.products
    ]
    lines += [
        "",
        f"products         {len(snapshot.products)} ({live} live)",
        f"records in       {snapshot.received:,}",
        f"records stored   {snapshot.stored:,}",
        f"findings         {snapshot.findings_total:,}",
    ]
    return "\n".join(lines)


def totals(snapshot: Snapshot) -> str:
    """One line on how it goes."""
    live = sum(product.state == LIVE for product in snapshot.products)
    return (
        f"{live} of {len(snapshot.products)} products live, {snapshot.received:,} records in, "
        f"{snapshot.stored:,} stored, {snapshot.findings_total:,} findings"
    )


def _line(text: str, style: str = "") -> Text:
    """A text that never takes two lines: the height of the screen is counted in them."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def clock(now: datetime | None = None) -> str:
    return (now or datetime.now(UTC)).strftime("%H:%M:%S")


def _differs(before: ChildStatus | None, after: ChildStatus) -> bool:
    return before is None or (before.state, before.restarts) != (after.state, after.restarts)


def _process_line(process: ChildStatus) -> str:
    restarts = f" (restart {process.restarts})" if process.restarts else ""
    where = f", pid {process.pid}" if process.pid else ""
    detail = f": {printable(process.detail)}" if process.detail else ""
    return f"{process.name} is {process.state.value}{where}{restarts}{detail}"
