"""Snapshots as a terminal shows them: tables for people, plain lines for logs. Pure functions."""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from telltale.cli.show import age, printable, size
from telltale.cli.snapshot import ProductView, Snapshot
from telltale.cli.supervisor import ChildStatus, State

LIVE = "LIVE"
_STATE_STYLES = {State.RUNNING: "green", State.STARTING: "yellow", State.WAITING: "red", State.STOPPED: "dim"}
_SEVERITY_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


def dashboard(snapshot: Snapshot, now: datetime, header: str) -> RenderableType:
    """The whole screen."""
    parts: list[RenderableType] = [Text(header, style="bold"), Text("")]
    if snapshot.problem:
        parts += [Text(printable(snapshot.problem), style="yellow"), Text("")]
    parts += [product_table(snapshot, now), Text(""), process_table(snapshot), Text(""), findings(snapshot)]
    return Group(*parts)


def product_table(snapshot: Snapshot, now: datetime) -> Table:
    """A line for each product."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PRODUCT")
    table.add_column("KIND")
    for name in ("RATE/S", "FRESHNESS", "LAG", "RECEIVED", "STORED"):
        table.add_column(name, justify="right")
    table.add_column("STATE")
    for product in snapshot.products:
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
    return table


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


def findings(snapshot: Snapshot) -> RenderableType:
    """The latest findings, or that there is none."""
    if not snapshot.findings:
        return Text("FINDINGS  none", style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("FINDINGS", "SEVERITY", "STATE", "ENTITY"):
        table.add_column(name, no_wrap=True)
    table.add_column("WHAT", overflow="ellipsis", no_wrap=True)
    for finding in snapshot.findings:
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


def clock(now: datetime | None = None) -> str:
    return (now or datetime.now(UTC)).strftime("%H:%M:%S")


def _differs(before: ChildStatus | None, after: ChildStatus) -> bool:
    return before is None or (before.state, before.restarts) != (after.state, after.restarts)


def _process_line(process: ChildStatus) -> str:
    restarts = f" (restart {process.restarts})" if process.restarts else ""
    where = f", pid {process.pid}" if process.pid else ""
    detail = f": {printable(process.detail)}" if process.detail else ""
    return f"{process.name} is {process.state.value}{where}{restarts}{detail}"
