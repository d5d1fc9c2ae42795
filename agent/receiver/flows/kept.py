"""What is known of exporters, on disk: after a restart their data is understood at once."""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog

from agent.receiver.flows.exporter import Exporter, Place
from agent.receiver.flows.layout import Layout, TemplateField
from telltale.api.network.v1.formats_pb2 import Format

log = structlog.get_logger(__name__)

NAME = "exporters.json"


def save(directory: Path, document: list[dict[str, Any]]) -> None:
    """Writes what `describe` made. Blocks on the disk."""
    scratch = directory / f".{NAME}.new"
    with scratch.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / NAME)


def load(directory: Path) -> list[Exporter]:
    """What was saved; nothing, and a line in the log, when it does not read. Blocks on the disk."""
    path = directory / NAME
    try:
        return [exporter_of(one) for one in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as unreadable:
        log.warning("what was known of exporters is lost", file=str(path), reason=repr(unreadable))
        return []


def describe(exporters: Iterable[Exporter]) -> list[dict[str, Any]]:
    """Exporters as JSON has them."""
    return [
        {
            "address": str(ip_address(one.place.address)),
            "format": int(one.place.format),
            "domain": one.place.domain,
            "heard": one.heard,
            "active_since": one.active_since,
            "samplers": {str(sampler): rate for sampler, rate in one.samplers.items()},
            "default_rate": one.default_rate,
            "system_start_ms": one.system_start_ms,
            "templates": {
                str(number): {"options": layout.options, "fields": [list(field) for field in layout.fields]}
                for number, layout in one.templates.items()
            },
        }
        for one in exporters
    ]


def exporter_of(told: dict[str, Any]) -> Exporter:
    """What `describe` made of it, back."""
    if told["format"] not in Format.values():
        raise ValueError(f"{told['format']} is no format")
    place = Place(ip_address(told["address"]).packed, told["format"], int(told["domain"]))
    templates: OrderedDict[int, Layout] = OrderedDict()
    for number, template in told["templates"].items():
        fields = [TemplateField(*(int(part) for part in field)) for field in template["fields"]]
        layout = Layout.of(fields, options=bool(template["options"]))
        if layout is not None:
            templates[int(number)] = layout
    return Exporter(
        place,
        templates,
        {int(sampler): int(rate) for sampler, rate in told["samplers"].items()},
        told["default_rate"],
        told["system_start_ms"],
        heard=float(told["heard"]),
        active_since=float(told["active_since"]),
    )
