"""What options of several commands share: spans of time, addresses, the form of the output."""

import ipaddress
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")


class Seconds(click.ParamType[float]):
    """A span such as `30s`, `5m`, `1h` or a number of seconds."""

    name = "duration"
    _LENGTHS = {"s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF012 -- a constant of the type

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        length = self._LENGTHS.get(value[-1:], 1.0)
        number = value[:-1] if value[-1:] in self._LENGTHS else value
        try:
            seconds = float(number) * length
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 10**9:
            self.fail(f"{value!r} is no duration; write 30s, 5m or 1h", param, ctx)
        return seconds


class Address(click.ParamType[str]):
    """An IPv4 address that can be dialled."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address = ipaddress.IPv4Address(value)
        except ValueError:
            address = ipaddress.IPv4Address(0)
        if address.is_unspecified or address.is_multicast:
            self.fail(f"{value!r} is no IPv4 address that others could dial", param, ctx)
        return str(address)
