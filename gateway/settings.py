"""Settings of the gateway."""

from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network

from pydantic import Field, field_validator

from telltale.settings import IdentitySettings

Network = IPv4Network | IPv6Network


class GatewaySettings(IdentitySettings):
    """Where the gateway listens, whom it dials and how much it keeps."""

    listen: str = Field("0.0.0.0:7443", description="host:port that the gateway binds.")
    domain_addresses: str = Field(
        "127.0.0.0/8,::1/128",
        description="Networks, separated by commas, in which domain services may register addresses.",
    )
    lease_seconds: float = Field(
        15.0,
        gt=0.5,
        le=3600.0,
        description="Life of a domain's registration; domains renew at a third of it.",
    )
    ring_bytes: int = Field(
        256 * 1024 * 1024, ge=1024 * 1024, description="Memory for recent batches, shared by all products."
    )
    max_products: int = Field(1_000, ge=1, le=100_000, description="Products of all domains together.")
    max_streams: int = Field(2_000, ge=1, description="Streams and routed calls at once.")
    max_streams_per_caller: int = Field(
        100, ge=1, description="Streams and routed calls of one identity at once."
    )
    platform: str = Field(description="host:port of the platform's domain service, for self-metrics.")

    @field_validator("domain_addresses")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        _networks(text)
        return text

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Where domain services may be."""
        return _networks(self.domain_addresses)


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
