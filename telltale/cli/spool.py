"""`telltale spool DIR`: what a source has sealed and nobody has acked yet, and what it gave up."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from telltale.cli import show
from telltale.errors import NotFound
from telltale.source.inspection import Inspection, inspect

# An agent's records, and what any other process tells of itself.
_FILES = ("spool.db", "telemetry.db")
_SHOWN_REFUSALS = 20


def spool(place: Path, *, as_json: bool) -> None:
    """Prints every spool of a state directory, or the one that the path names."""
    found = {str(path): inspect(path) for path in _spools(place)}
    if as_json:
        show.document([{"path": path, **_plain(one)} for path, one in found.items()])
        return
    for number, (path, one) in enumerate(found.items()):
        if number:
            sys.stdout.write("\n")
        _print(path, one, datetime.now(UTC))


def _spools(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = [place / name for name in _FILES if (place / name).is_file()]
    if not found:
        raise NotFound(
            f"there is no spool in {place}; name the state directory of an agent, such as "
            "/var/lib/telltale-agent, or a spool's file"
        )
    return found


def _print(path: str, one: Inspection, now: datetime) -> None:
    batches = sum(chain.batches for chain in one.chains)
    size = sum(chain.bytes for chain in one.chains)
    sys.stdout.write(f"{show.printable(path)}: {batches:,} batches wait to be acked, {show.size(size)}\n")
    show.table(
        ("PRODUCT", "BATCHES", "RECORDS", "SIZE", "OLDEST", "EPOCH", "SEALED"),
        [
            (
                chain.product,
                chain.batches,
                chain.records,
                show.size(chain.bytes),
                show.age((now - chain.oldest).total_seconds()) if chain.oldest else None,
                chain.epoch,
                chain.sequence,
            )
            for chain in one.chains
        ],
        empty="Nothing was sealed yet.",
    )
    if one.missing:
        sys.stdout.write("\nMissing, to be declared with the next batch:\n")
        show.table(
            ("PRODUCT", "WHY", "RECORDS", "SEQUENCES", "DETAIL"),
            [
                (missing.product, missing.reason, missing.records, _range(missing), missing.detail)
                for missing in one.missing
            ],
            empty="",
        )
    if one.refused:
        sys.stdout.write(f"\nRefused by the domain for good ({len(one.refused):,}, the latest first):\n")
        show.table(
            ("TIME", "PRODUCT", "SEQUENCE", "RECORDS", "WHY", "DETAIL"),
            [
                (
                    _iso(refused.time),
                    refused.product,
                    refused.sequence,
                    refused.records,
                    refused.reason,
                    refused.detail,
                )
                for refused in one.refused[:_SHOWN_REFUSALS]
            ],
            empty="",
        )


def _range(missing: Any) -> str | None:
    if missing.first_sequence is None:
        return None
    if missing.first_sequence == missing.last_sequence:
        return str(missing.first_sequence)
    return f"{missing.first_sequence} to {missing.last_sequence}"


def _plain(one: Inspection) -> dict[str, Any]:
    """As JSON has it: times as text."""
    whole: dict[str, Any] = asdict(one)
    for rows, name in ((whole["chains"], "oldest"), (whole["refused"], "time")):
        for row in rows:
            row[name] = _iso(row[name])
    return whole


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
