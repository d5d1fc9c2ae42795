"""The manifest of a receiver: the ports that it may bind, and who may send to each. It binds nothing else."""

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from telltale.errors import ConfigurationError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """An address of this machine to bind, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(text: object) -> Address:
    host, colon, port = str(text).rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
        number = int(port) if colon else -1
    except ValueError:
        number = -1
    if not 0 <= number <= 65_535:
        raise ValueError(f"{text!r} is no address and port; write it like 192.0.2.1:2055 or [::]:2055")
    return Address(host.strip("[]"), number)


def _network(text: object) -> Network:
    try:
        return ipaddress.ip_network(str(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is no network; write it like 192.0.2.0/24, 192.0.2.1 or 2001:db8::/32"
        ) from None


class FlowPort(BaseModel):
    """A UDP port for NetFlow, IPFIX and sFlow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[Address, BeforeValidator(_address)]
    # Nobody else is heard.
    exporters: Annotated[tuple[Annotated[Network, BeforeValidator(_network)], ...], Field(min_length=1)]


class Manifest(BaseModel):
    """Everything that a receiver may bind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flows: Annotated[tuple[FlowPort, ...], Field(min_length=1)]


def read_manifest(path: Path) -> Manifest:
    """Raises ConfigurationError naming every key that is missing or wrong."""
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as unreadable:
        raise ConfigurationError(f"the manifest {path} cannot be read: {unreadable}") from None
    except ValidationError as refused:
        problems = [
            f"{'.'.join(str(part) for part in error['loc']) or 'it'}: {error['msg'].lower()}"
            for error in refused.errors()
        ]
        raise ConfigurationError(f"the manifest {path} does not hold: {'; '.join(problems)}") from None
