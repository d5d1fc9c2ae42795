"""What a section has to say: figures with their units, how they were taken, and goals."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number. goal: what it should reach, in words; empty when it has none."""

    name: str
    value: float | None
    unit: str
    goal: str = ""


@dataclass(frozen=True)
class Section:
    """One section's outcome. absent: what could not be measured here, and why."""

    name: str
    method: str
    figures: Sequence[Figure]
    absent: Sequence[str] = field(default_factory=tuple)


def show(section: Section) -> None:
    """Prints a section as a table."""
    table = Table(title=section.name, title_justify="left", caption=section.method, caption_justify="left")
    for name, justify in (("figure", "left"), ("value", "right"), ("unit", "left"), ("goal", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # a literal, not any text
    for figure in section.figures:
        table.add_row(figure.name, readable(figure.value), figure.unit, figure.goal)
    console = Console()
    console.print(table)
    for missing in section.absent:
        console.print(f"not measured: {missing}")


def write(path: Path, sections: Sequence[Section]) -> None:
    """Writes all sections and the machine they ran on as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "sections": [asdict(section) for section in sections]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """The machine and how busy it was: without them no figure means anything."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
    }


def readable(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
