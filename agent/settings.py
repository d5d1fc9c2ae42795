"""What an agent can be told: where its domain service is, what to collect how often, how much to keep."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource

from telltale.errors import ConfigurationError
from telltale.identity.newcomer import told
from telltale.settings import IdentitySettings, Patterns

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Faster than this an agent would be busy with little else.
SHORTEST_INTERVAL = timedelta(milliseconds=100)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration(text: str) -> timedelta:
    """`500ms`, `10s`, `5m` or `1h` as a duration."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no duration; write it like 500ms, 10s, 5m or 1h")
    return timedelta(seconds=float(found[1]) * SECONDS_PER_UNIT[found[2]])


def parse_intervals(text: object) -> object:
    """`servers.cpu=5s,servers.units=5m` as durations by product."""
    if not isinstance(text, str):
        return text
    intervals = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        product, separator, duration = part.partition("=")
        if not separator:
            raise ValueError(f"{part!r} is no interval; write it like servers.cpu=5s")
        interval = parse_duration(duration)
        if interval < SHORTEST_INTERVAL:
            raise ValueError(f"{product.strip()} would be read more often than every 100ms")
        intervals[product.strip()] = interval
    return intervals


class TellingSettings(IdentitySettings):
    """What every source is told. One that has joined finds most of it in its state directory."""

    service: str = Field(description="host:port of the domain service that takes the data.")
    spool_bytes: int = Field(1 << 30, ge=1 << 20, description="Bound of what waits on disk to be acked.")

    @classmethod
    def read(cls) -> Self:
        try:
            return super().read()
        except ConfigurationError as wrong:
            if {"TELLTALE_TRUST", "TELLTALE_SERVICE"} & os.environ.keys():
                # Somebody configures it by hand.
                raise
            raise ConfigurationError(
                f"{wrong}; a host that has joined with `telltale agent join` needs TELLTALE_STATE alone"
            ) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        state = os.environ.get("TELLTALE_STATE")
        joined = told(Path(state)) if state else {}
        # What is set by hand goes first.
        return (init_settings, env_settings, InitSettingsSource(settings_cls, dict(joined)))


class AgentSettings(TellingSettings):
    """A host agent's settings."""

    collect: Patterns = Field(
        ("*",), description="Products to collect, separated by commas; `*` matches any run of characters."
    )
    intervals: Annotated[dict[str, timedelta], NoDecode, BeforeValidator(parse_intervals)] = Field(
        default_factory=dict,
        description="Intervals that differ from the default, such as servers.cpu=5s,servers.units=5m.",
    )


class ReceiverSettings(TellingSettings):
    """A receiver's settings."""

    manifest: Path = Field(
        description="TOML file with the ports that it binds, and the networks that may send to each."
    )
